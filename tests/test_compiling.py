"""Kernels that are compiled side by side: what fails, what is kept, and what an end of the process leaves."""

import os
import shutil
import struct
import subprocess
import sys

import pytest
import torch
from processes import output_of, run_script

from portable_mps.runtime import device, kernel

USE = "import torch; x = torch.arange(4.0, device='mps'); print(x.exp().sum().item(), (x * 2).sin().sum().item())"
FILL = """
struct Params {{ float* out; float value; uint unused; }};
[shader("compute")] [numthreads(4, 1, 1)]
void run(uint3 id : SV_DispatchThreadID, PARAMS p) {{ p.out[id.x] = {value}; }}
"""


def fill(value: str, out: torch.Tensor) -> None:
    """Launch a kernel that has not been asked for before."""
    now = device.current()
    filling = now.compiler.compile("filling", FILL.format(value=value), 16)
    parameters = struct.pack("@QfI", out.data_ptr(), 3.0, 0)
    now.stream.launch(filling, parameters, (1, 1, 1), [], [out], [0])


@pytest.fixture(autouse=True)
def compiled_in_other_threads():
    if device.current().pool is None:
        pytest.skip("slangpy compiles here")


def test_dispatches_are_recorded_before_their_kernels_are_there():
    outs = [torch.zeros(4, device="mps") for _ in range(40)]
    for number, out in enumerate(outs):
        fill(f"p.value * {number}", out)
    assert [out.tolist() for out in outs] == [[3.0 * number] * 4 for number in range(40)]


def test_copies_are_in_order_behind_kernels_that_are_compiled():
    """From the host, and from one tensor to another; what they are taken from may change at once."""
    stream = device.current().stream
    out, copied = torch.zeros(4, device="mps"), torch.zeros(4, device="mps")
    given, seen, expected = torch.zeros(4), [], []
    torch.mps.synchronize()
    for number in range(1, 25):
        fill(f"p.value * {number} + 0.25", out)
        stream.copy(copied.data_ptr(), out.data_ptr(), 16)
        seen.append(copied + 1)
        given.fill_(number)
        out.copy_(given)
        seen.append(out * 2)
        expected += [[3.0 * number + 1.25] * 4, [2.0 * number] * 4]
    assert [values.tolist() for values in seen] == expected


def test_copies_do_not_wait_for_the_compiler():
    stream = device.current().stream
    out, given = torch.zeros(4, device="mps"), torch.ones(4)
    torch.mps.synchronize()
    for number in range(24):  # the last ones cannot be there when the first copies are called for
        fill(f"p.value * {number} + 0.5", out)
    out.copy_(given)
    waiting = len(stream._deferred)
    assert (waiting, out.tolist(), len(stream._deferred)) == (2, [1.0] * 4, 0)


def test_parameters_that_are_more_than_push_constants():
    """And dispatches whose parameters are together more than is written at once."""
    now = device.current()
    count = now.adapter.max_push_constants // 4
    unused = " ".join(f"uint unused{number};" for number in range(count))
    source = FILL.format(value="p.value + p.last").replace("uint unused;", f"{unused} uint last;")
    size = 12 + 4 * count + 4
    filling = now.compiler.compile("filling", source, size)
    outs = torch.zeros(500, 4, device="mps")
    expected = torch.zeros(500, 4)
    for number in list(range(500)) + list(range(0, 500, 7)):
        parameters = struct.pack(f"@Qf{4 * count}xI", outs[number].data_ptr(), number, 2 * number)
        now.stream.launch(filling, parameters, (1, 1, 1), [], [outs[number]], [0])
        expected[number] = 3 * number
    assert torch.equal(outs.cpu(), expected)


def test_parameters_that_are_more_than_any_buffer():
    with pytest.raises(RuntimeError, match="filling: its parameters take 16388 bytes, of at most 16384"):
        device.current().compiler.compile("filling", FILL.format(value="0"), 16388)


def test_an_error_is_raised_by_whoever_waits_and_then_at_each_call():
    """Other dispatches of its batch run."""
    out, other = torch.zeros(4, device="mps"), torch.ones(4, device="mps")
    for number in range(16):  # the compilers are busy: "nonsense" is most often recorded before it fails
        fill(f"p.value / {number + 1}", torch.empty_like(out))
    other.mul_(3)
    with pytest.raises(RuntimeError, match=r"(?s)filling: .*nonsense"):
        fill("nonsense", out)
        torch.mps.synchronize()
    with pytest.raises(RuntimeError, match=r"(?s)filling: .*nonsense"):
        fill("nonsense", out)
    assert (other.add(1).tolist(), out.tolist()) == ([4.0] * 4, [0.0] * 4)


def test_what_is_kept_needs_no_compiler(tmp_path):
    without = f"""
import torch
from portable_mps import _C
from portable_mps.runtime import device, kernel
calls_nothing = _C.FrontEndOptions(0, "", "sm_6_0", 2, 6)
device.open_pool = lambda handle, functions, profile, mode, kept: _C.Compiler(
    handle, functions, calls_nothing, str(kept), "", 2)
{USE}
"""
    first = output_of(USE, PORTABLE_MPS_CACHE=str(tmp_path))
    assert output_of(without, PORTABLE_MPS_CACHE=str(tmp_path)) == first


@pytest.mark.parametrize("name", ["lib/dtypes.slang", "lib/strided.slangh", "matmul.slang"])
def test_a_kernel_is_compiled_anew_after_a_change_of_what_it_may_import(tmp_path, monkeypatch, name):
    copied = shutil.copytree(kernel.KERNELS, tmp_path / "kernels")
    monkeypatch.setattr(kernel, "KERNELS", copied)
    digest = kernel.library_digest.__wrapped__
    assert digest() == kernel.library_digest()
    with (copied / name).open("a") as file:
        file.write("\n")
    assert digest() != kernel.library_digest()


def test_damaged_files_are_made_anew(tmp_path):
    expected = output_of(USE, PORTABLE_MPS_CACHE=str(tmp_path))
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.spv")}
    assert len(kept) > 2
    damages = (lambda content: b"", lambda content: content[:-4], lambda content: content[:40] + b"\1" + content[41:])
    for number, (path, content) in enumerate(kept.items()):
        path.write_bytes(damages[number % 3](content))
    assert output_of(USE, PORTABLE_MPS_CACHE=str(tmp_path)) == expected
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.spv")} == kept


def test_processes_share_a_cache(tmp_path):
    environment = os.environ | {"PORTABLE_MPS": "1", "PORTABLE_MPS_CACHE": str(tmp_path)}
    started = [
        subprocess.Popen([sys.executable, "-c", USE], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=180)[0] for process in started]
    assert len(set(outputs)) == 1 and [process.returncode for process in started] == [0] * 3
    (folder,) = tmp_path.glob("*/kernels-*")
    assert {path.suffix for path in folder.iterdir()} <= {".spv", ".pipeline"}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit of a file's size")
def test_files_that_cannot_be_written_are_done_without(tmp_path):
    source = f"""
import resource, torch
torch.ones(1, device="mps").sum().item()
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
{USE}
"""
    assert output_of(source, PORTABLE_MPS_CACHE=str(tmp_path)) == output_of(USE)
    kept = {path.name for path in tmp_path.rglob("*.spv*")}
    output_of(USE, PORTABLE_MPS_CACHE=str(tmp_path))
    assert kept < {path.name for path in tmp_path.rglob("*.spv*")}


def test_exit_while_kernels_are_compiled(tmp_path):
    source = f"""
import torch
from portable_mps.runtime import device, kernel
compiler = device.current().compiler
for number in range(200):
    compiler.compile("filling", {FILL!r}.format(value=number), 16)
print("done")
"""
    done = run_script(source, PORTABLE_MPS_CACHE=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("threads", ["0", "1"])
def test_sources_are_collected(threads, tmp_path):
    """Each is whole but for what it includes; entry points of one text are files of their own."""
    source = f"{USE}; x.requires_grad_().softmax(0)[0].backward()"
    output_of(source, PORTABLE_MPS_COLLECT=str(tmp_path / "sources"), PORTABLE_MPS_COMPILERS=threads)
    firsts = {}
    for path in (tmp_path / "sources").iterdir():
        first, text = path.read_text().split("\n", 1)
        comment, name, entry, parameter_bytes, profile = first.split()
        assert comment == "//" and f" {entry}(" in text and "#define PARAMS " in text and int(parameter_bytes) > 0
        assert path.stem == kernel.kernel_key(text, entry, profile)
        firsts[name] = entry
    assert {"exp", "sin", "sum"} <= firsts.keys() and {"forward", "backward"} <= set(firsts.values())


@pytest.mark.parametrize("threads", ["0", "1"])
def test_how_many_threads_compile(threads, tmp_path):
    source = f"{USE}; from portable_mps.runtime import device; print(device.current().pool is None)"
    printed = output_of(source, PORTABLE_MPS_COMPILERS=threads, PORTABLE_MPS_CACHE=str(tmp_path)).splitlines()
    assert printed == [output_of(USE), str(threads == "0")]


def test_a_number_of_threads_that_is_none():
    done = run_script(USE, PORTABLE_MPS_COMPILERS="many")
    assert "invalid PORTABLE_MPS_COMPILERS 'many'" in done.stderr and done.returncode == 1
