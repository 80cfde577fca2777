"""Dense linear algebra in float32. Sizes are the sides of the matrices, behind the batch where there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from suite.case import Case, Inputs, Work

TITLE = "Linear algebra"
NOTE = "Operations are those of the textbook's algorithm: 2/3 n^3 for LU, 1/3 n^3 for Cholesky, 8/3 n^3 for QR with Q."


def _square(inputs: Inputs, batch: int, n: int) -> torch.Tensor:
    """Well conditioned: a large diagonal."""
    x = inputs.normal(batch, n, n)
    x.diagonal(dim1=1, dim2=2).add_(2.0 * n**0.5)
    return x


def factor(
    inputs: Inputs, batch: int, n: int, call: Callable[[torch.Tensor], object], cubes: float, symmetric: bool = False
) -> Work:
    """cubes: floating-point operations, in n^3."""
    x = _square(inputs, batch, n)
    if symmetric:
        x = x @ x.mT / n
        x.diagonal(dim1=1, dim2=2).add_(1.0)
    if batch == 1:
        x = x[0]
    return Work(lambda: call(x), (x,), flops=cubes * batch * float(n) ** 3)


def solve(inputs: Inputs, batch: int, n: int, columns: int) -> Work:
    a, b = _square(inputs, batch, n), inputs.normal(batch, n, columns)
    if batch == 1:
        a, b = a[0], b[0]
    flops = batch * (2 / 3 * float(n) ** 3 + 2.0 * n * n * columns)
    return Work(lambda: torch.linalg.solve(a, b), (a, b), flops=flops)


def triangular(inputs: Inputs, batch: int, n: int, columns: int) -> Work:
    a, b = _square(inputs, batch, n).tril()[0], inputs.normal(n, columns)
    return Work(lambda: torch.linalg.solve_triangular(a, b, upper=False), (a, b), flops=float(n) * n * columns)


_FACTORS = {
    "LU": {"call": torch.linalg.lu_factor, "cubes": 2 / 3},
    "Cholesky": {"call": torch.linalg.cholesky, "cubes": 1 / 3, "symmetric": True},
    "QR": {"call": torch.linalg.qr, "cubes": 8 / 3},
}
_MANY = (4096, 32)

CASES = (
    *(
        Case(f"{name} of {n}", factor, (1, n), options=options)
        for name, options in _FACTORS.items()
        for n in (1024, 2048, 4096)
        if (name, n) != ("QR", 4096)
    ),
    *(Case(f"{name} of 4096 matrices of 32", factor, _MANY, options=options) for name, options in _FACTORS.items()),
    Case("solve 1024, 1 column", solve, (1, 1024, 1)),
    Case("solve 4096, 1024 columns", solve, (1, 4096, 1024)),
    Case("solve triangular 4096, 4096 columns", triangular, (1, 4096, 4096)),
    Case("inverse of 1024", factor, (1, 1024), options={"call": torch.linalg.inv, "cubes": 2.0}),
    Case(
        "eigenvalues and vectors of a symmetric 512",
        factor,
        (1, 512),
        options={"call": torch.linalg.eigh, "cubes": 9.0, "symmetric": True},
    ),
    Case("singular values and vectors of 512", factor, (1, 512), options={"call": torch.linalg.svd, "cubes": 21.0}),
)
