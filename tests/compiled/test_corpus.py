"""Every function of the corpus, compiled for its shapes and for any, against eager."""

import pytest

from compiled.compare import assert_as_eager
from compiled.corpus import CASES


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", CASES)
def test_as_eager(name, dynamic):
    assert_as_eager(name, dynamic)
