"""The folder of compiled kernels: what ended processes leave behind must not fill it, and there may be none."""

import shutil
import struct
import sys

import pytest
from processes import run_script

from portable_mps import settings
from portable_mps.runtime import cache

USE = "import os, torch; print(torch.ones(2, device='mps').exp().sum().item(), os.getpid())"
# A user's kernel is compiled by slangpy, in whose database a process then has a slot.
SLANGPY = """
import os, torch
x = torch.ones(2, device="mps")
source = '[shader("compute")] [numthreads(2, 1, 1)] void twice(uint3 id : SV_DispatchThreadID, uniform float* x)'
torch.mps.compile_shader(source + " { x[id.x] *= 2; }").twice(x, threads=2)
print(x.sum().item(), os.getpid())
"""


def readers(table) -> list[int]:
    content = table.read_bytes()
    slots = (struct.unpack_from("<i", content, at + 8)[0] for at in range(128, len(content) - 63, 64))
    return [process for process in slots if process]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_ended_processes_are_forgotten(tmp_path):
    """However they ended, while another process has the cache in use."""
    source = f"""
import os, signal, subprocess, sys
{SLANGPY}
for end in ("", "os.kill(os.getpid(), 9)", "os._exit(0)"):
    subprocess.run([sys.executable, "-c", {SLANGPY!r} + end])
"""
    done = run_script(source, PORTABLE_MPS_CACHE=str(tmp_path))
    first, *others = (int(line.split()[1]) for line in done.stdout.splitlines())
    (table,) = tmp_path.rglob("shaders/rhi/lock.mdb")
    left = readers(table)
    assert first in left and not set(left) & set(others[:-1])
    cache.forget_dead_readers(table)
    assert readers(table) == []


def test_other_files_are_left_alone(tmp_path):
    table = tmp_path / "lock.mdb"
    for content in (b"", bytes(8192), b"\1" * 8192):
        table.write_bytes(content)
        cache.forget_dead_readers(table)
        assert table.read_bytes() == content


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/x"])
def test_without_a_cache(tmp_path, name):
    if name == "/proc/x" and sys.platform != "linux":
        pytest.skip("there is no /proc")
    (tmp_path / "file").touch()
    done = run_script(USE, PORTABLE_MPS_CACHE=str(tmp_path / name))
    assert done.returncode == 0 and done.stdout.startswith("5.43656")
    assert done.stderr.count("There is no cache of compiled kernels") == 1 and "Error" not in done.stderr


def test_without_a_home(monkeypatch):
    done = run_script(USE, HOME="/proc/x", XDG_CACHE_HOME="", PORTABLE_MPS_CACHE="")
    assert done.returncode == 0 and done.stderr.count("There is no cache of compiled kernels") == 1


def test_without_space(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "cache_folder", lambda: tmp_path)
    assert cache.join("some adapter") == tmp_path / "some adapter"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1 << 30, 1 << 30, 3 << 20))
    with pytest.warns(RuntimeWarning, match="only 3 MiB are free"):
        assert cache.join("some adapter") is None
