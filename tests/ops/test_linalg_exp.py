"""Exponentials of matrices against the CPU in float64."""

import pytest
import torch
from support import compare


def sample(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_matrix_exp(dtype):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    for shape in ((0, 0), (1, 1), (2, 0, 0), (2, 3, 4, 4), (30, 30)):
        for scale in (0.01, 1, 8):
            a = sample(*shape, dtype=dtype) * scale / max(shape[-1], 1) ** 0.5
            expected = torch.linalg.matrix_exp(a.to(wide))
            actual = torch.linalg.matrix_exp(a.to("mps")).cpu()
            size = expected.abs().amax((-2, -1), keepdim=True) if a.numel() else 1
            torch.testing.assert_close(
                actual.to(wide) / size, expected / size, rtol=0, atol=100 * torch.finfo(dtype).eps
            )


def test_batch_of_different_sizes():
    a = sample(4, 3, 3) * torch.tensor([1e-6, 0.1, 3, 20])[:, None, None]
    compare(torch.linalg.matrix_exp, a.double(), rtol=1e-10, atol=1e-10)


def test_gradient_and_what_is_not_finite():
    compare(torch.linalg.matrix_exp, sample(2, 3, 3), grad=True, rtol=1e-4, atol=1e-4)
    compare(torch.linalg.matrix_exp, torch.tensor([[[1.0, float("nan")], [0, 1]], [[0, 1], [0, 0]]]))


def test_half_types():
    a = sample(3, 3)
    for dtype in (torch.float16, torch.bfloat16):
        actual = torch.linalg.matrix_exp(a.to("mps", dtype)).cpu()
        torch.testing.assert_close(actual, torch.linalg.matrix_exp(a.to(dtype).float()).to(dtype))


def test_linear_combination():
    compare(torch._compute_linear_combination, sample(3, 2, 2), sample(4, 3), rtol=1e-5, atol=1e-5)
    compare(torch._compute_linear_combination, sample(3, 2, dtype=torch.complex64), sample(4, 3), rtol=1e-5, atol=1e-5)


def test_errors():
    for bad in (torch.ones(2, 3), torch.ones(3), torch.ones(2, 2, dtype=torch.int64)):
        for device in ("cpu", "mps"):
            with pytest.raises(RuntimeError):
                torch.linalg.matrix_exp(bad.to(device))
