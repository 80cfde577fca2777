"""The folder of compiled kernels: what killed processes leave behind must not fill it."""

import os
import sys

import pytest

from portable_mps.runtime import cache

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")


def test_the_first_process_forgets_the_table_of_readers(tmp_path):
    table = tmp_path / "cache" / "shaders" / "lock.mdb"
    table.parent.mkdir(parents=True)
    table.touch()
    users = cache.join(tmp_path / "cache")
    assert not table.exists()
    table.touch()
    second = cache.join(tmp_path / "cache")
    assert table.exists(), "another process has it in use"
    os.close(users)
    os.close(second)
    os.close(cache.join(tmp_path / "cache"))
    assert not table.exists()
