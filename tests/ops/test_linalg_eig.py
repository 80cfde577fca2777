"""Eigenvalues of general matrices: on the CPU by the list in dispatch/fallback.py, with a warning and gradients."""

import subprocess
import sys

import pytest
import torch
from support import assert_same, compare

from portable_mps.dispatch import fallback


def sample(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_eig(dtype):
    for shape in ((3, 3), (2, 4, 4), (0, 0)):
        a = sample(*shape, dtype=dtype)
        values, vectors = torch.linalg.eig(a.to("mps"))
        tolerance = {"rtol": 1e-4, "atol": 1e-4}
        assert_same(values, torch.linalg.eigvals(a), **tolerance)
        assert_same(a.to("mps", values.dtype) @ vectors, (vectors * values.unsqueeze(-2)).cpu(), **tolerance)
        compare(torch.linalg.eigvals, a, **tolerance)


def test_gradient():
    compare(lambda x: torch.linalg.eigvals(x).abs(), sample(4, 4), grad=True, rtol=1e-3, atol=1e-3)


def test_it_counts_and_warns_once():
    script = """
import torch, warnings
from portable_mps.dispatch import fallback
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        torch.linalg.eig(torch.eye(2, device="mps"))
print(len([w for w in caught if "aten::linalg_eig" in str(w.message)]), fallback.fallen_back)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.stdout.split(maxsplit=1) == ["1", "{'aten::linalg_eig': 2}\n"], result.stderr
    assert all(torch._C._dispatch_has_kernel(name) for name in fallback.ON_CPU)


def test_errors():
    for bad in (torch.ones(2, 3), torch.ones(3), torch.eye(2).half(), torch.full((2, 2), float("nan"))):
        raised = []
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError) as info:
                torch.linalg.eig(bad.to(device))
            raised.append(type(info.value))
        assert raised[0] is raised[1]


@pytest.mark.filterwarnings("ignore:The operator:UserWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_eigenvalues_of_what_is_not_finite_raise(value):
    """LAPACK may crash the process for them, and does with torch's CPU."""
    a = torch.eye(3, device="mps")
    a[1, 2] = value
    with pytest.raises(RuntimeError, match="infs or NaNs"):
        torch.linalg.eigvals(a)
