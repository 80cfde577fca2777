"""What a user sees when something is wrong: the exceptions of torch's CPU, and the device works on."""

import warnings

import pytest
import torch
from processes import output_of


@pytest.fixture(autouse=True)
def the_device_works_on():
    yield
    assert torch.ones(3, device="mps").sum().item() == 3


CASES = {
    "shapes": lambda d: torch.ones(2, 3, device=d) + torch.ones(4, device=d),
    "matmul": lambda d: torch.ones(2, 3, device=d) @ torch.ones(2, 3, device=d),
    "dtypes": lambda d: torch.ones(2, 2, device=d) @ torch.ones(2, 2, dtype=torch.float16, device=d),
    "dimension": lambda d: torch.ones(2, 3, device=d).sum(2),
    "view": lambda d: torch.ones(2, 3, device=d).view(4),
    "reshape": lambda d: torch.ones(2, 3, device=d).reshape(5, -1),
    "cat": lambda d: torch.cat([torch.ones(2, 3, device=d), torch.ones(2, 4, device=d)]),
    "in-place result dtype": lambda d: torch.ones(2, dtype=torch.int64, device=d).add_(1.5),
    "in-place overlap": lambda d: torch.ones(1, device=d).expand(3).add_(1),
    "out dtype": lambda d: torch.add(torch.ones(2, device=d), 1, out=torch.ones(2, dtype=torch.int32, device=d)),
    "bool subtraction": lambda d: torch.ones(2, dtype=torch.bool, device=d) - torch.ones(2, dtype=torch.bool, device=d),
    "bitwise of floats": lambda d: torch.ones(2, device=d) & torch.ones(2, device=d),
    "index type": lambda d: torch.ones(3, device=d)[torch.ones(2, device=d)],
    "mask shape": lambda d: torch.ones(3, device=d)[torch.ones(2, dtype=torch.bool, device=d)],
    "convolution channels": lambda d: torch.conv2d(torch.ones(1, 2, 5, 5, device=d), torch.ones(1, 3, 3, 3, device=d)),
    "backward of a non-scalar": lambda d: torch.ones(2, device=d, requires_grad=True).mul(2).backward(),
    "item of many": lambda d: torch.ones(2, device=d).item(),
    "ambiguous truth": lambda d: bool(torch.ones(2, device=d)),
    "argmax of nothing": lambda d: torch.ones(0, device=d).argmax(),
    "negative std": lambda d: torch.ones(2, device=d).normal_(0, -1),
    "linear": lambda d: torch.nn.functional.linear(torch.ones(2, 3, device=d), torch.ones(4, 5, device=d)),
}


@pytest.mark.parametrize("name", CASES)
def test_same_exception_as_on_the_cpu(name):
    with pytest.raises(Exception) as expected:
        CASES[name]("cpu")
    with pytest.raises(expected.type):
        CASES[name]("mps")


@pytest.mark.parametrize("index", [5, -6])
def test_index_out_of_range_raises_at_the_next_synchronisation(index):
    x = torch.zeros(5, device="mps")
    x[torch.tensor([0, index], device="mps")]
    with pytest.raises(IndexError, match=f"index {index} is out of bounds for dimension 0 with size 5"):
        torch.mps.synchronize()
    torch.mps.synchronize()  # told once


def test_a_write_out_of_range_writes_nothing():
    x = torch.zeros(8, device="mps")
    x[2:6].index_put_((torch.tensor([-9, 4], device="mps"),), torch.ones((), device="mps"))
    with pytest.raises(IndexError):
        x.cpu()
    assert x.cpu().eq(0).all()


def test_embedding_index():
    table = torch.nn.Embedding(4, 2).to("mps")
    table(torch.tensor([1, 4], device="mps"))
    with pytest.raises(IndexError, match="out of range"):
        torch.mps.synchronize()


def test_mixed_devices():
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device="mps") + torch.ones(3)
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, 3, device="mps") @ torch.ones(3, 3)


def test_numpy_of_a_device_tensor():
    with pytest.raises(TypeError, match="can't convert mps:0 device type tensor to numpy"):
        torch.ones(3, device="mps").numpy()


def test_pinned_memory_is_for_the_cpu():
    with pytest.raises(RuntimeError, match="pinned"):
        torch.empty(2, device="mps", pin_memory=True)


UNKNOWN = """
import warnings, torch
library = torch.library.Library("aten", "FRAGMENT")
library.define("unknown_to_us(Tensor self) -> Tensor")
cpu = torch.library.Library("aten", "IMPL", "CPU")
cpu.impl("unknown_to_us", lambda x: x + 1)
x = torch.ones(2, device="mps")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    try:
        for _ in range(2):
            y = torch.ops.aten.unknown_to_us(x)
        print(y.device, y.tolist(), len(caught), caught[0].message)
    except NotImplementedError as error:
        print(error)
"""


def test_unknown_operator():
    printed = output_of(UNKNOWN, PYTORCH_ENABLE_MPS_FALLBACK="0")
    assert "'aten::unknown_to_us' is not currently implemented for the MPS device" in printed
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in printed


def test_unknown_operator_falls_back_with_one_warning():
    printed = output_of(UNKNOWN, PYTORCH_ENABLE_MPS_FALLBACK="1")
    assert printed.startswith("mps:0 [2.0, 2.0] 1 The operator 'aten::unknown_to_us' is not currently supported")


def test_nothing_warns_in_ordinary_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.randn(4, 3, device="mps", requires_grad=True)
        torch.nn.functional.cross_entropy(x, torch.tensor([0, 1, 2, 0], device="mps")).backward()


def test_an_adapter_without_float64():
    """What a Mac says: no memory is taken for what no kernel could compute with."""
    script = """
import torch
from portable_mps.runtime import device
device.current().adapter.features["float64"] = False
for dtype in (torch.float64, torch.complex128):
    for make in (lambda: torch.ones(2, dtype=dtype).to("mps"), lambda: torch.empty(2, dtype=dtype, device="mps")):
        try:
            make()
        except TypeError as error:
            print(str(error).splitlines()[0])
"""
    doubles = (
        "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64. Please use float32 "
        "instead."
    )
    complex_doubles = "Trying to convert ComplexDouble to the MPS backend but it does not have support for that dtype."
    assert output_of(script).splitlines() == [doubles] * 2 + [complex_doubles] * 2
