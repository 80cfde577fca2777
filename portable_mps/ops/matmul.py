"""Matrix products: mm, bmm, their forms with an added term, and products with vectors."""

from __future__ import annotations

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.products import AS_IS, Finish, product, shares
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import apart_or_same, on_device, separate


def _check_out(
    out: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype, name: str, apart: bool = True
) -> torch.Tensor:
    """`out` with the result's shape, by torch's rules for out= arguments. apart: its elements are, too."""
    on_device(out)
    if out.dtype != dtype:
        raise RuntimeError(f"{name}: expected out tensor to have dtype {dtype}, but got {out.dtype} instead")
    if out.shape != shape:
        torch._prims_common.wrappers._maybe_resize_out(out, shape)
    if apart and 0 in out.stride():
        separate(out)
    return out


def _refuse_parts(out: torch.Tensor, added: torch.Tensor, *factors: torch.Tensor) -> None:
    """Refuse an out= argument that is a part of an input; in place, factors may overlap what is added to."""
    if out is not added:
        apart_or_same(out, added, *factors)


def _apart(factor: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`factor`, or a copy of it where elements might be written before they are read."""
    if not shares(factor, out) or 0 in (factor.numel(), out.numel()):
        return factor
    ends = (
        t.data_ptr() + t.element_size() * (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)))
        for t in (factor, out)
    )
    end, out_end = ends
    return factor.clone() if factor.data_ptr() < out_end and out.data_ptr() < end else factor


def _batched(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.unsqueeze(0)


_MULTIPLIED = FLOATS | INTEGERS | {torch.complex32, torch.complex64, torch.complex128}


def check_inner(mat1: torch.Tensor, mat2: torch.Tensor) -> None:
    """Refuse two matrices whose inner dimensions differ."""
    if mat1.shape[1] != mat2.shape[0]:
        shapes = f"{mat1.shape[0]}x{mat1.shape[1]} and {mat2.shape[0]}x{mat2.shape[1]}"
        raise RuntimeError(f"mat1 and mat2 shapes cannot be multiplied ({shapes})")


def _check_dtypes(name: str, first: torch.Tensor, second: torch.Tensor) -> None:
    """Refuse factors of two devices or dtypes, or of a dtype that is not multiplied, if there is something to."""
    on_device(first, second)  # what is empty, too, which no kernel would find
    if first.numel() and second.numel():
        require_dtype(_KERNELS.get(name, name), first, _MULTIPLIED)
    if first.dtype != second.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {first.dtype} != {second.dtype} ({name})"
        )


_KERNELS = {"mm": "addmm_impl_cpu_", "addmm": "addmm_impl_cpu_", "addmv": "addmv_impl_cpu"}


@implements("mm.out")
def mm_out(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """(m, k) @ (k, n). RuntimeError for other than matrices that fit."""
    if self.dim() != 2 or mat2.dim() != 2:
        raise RuntimeError("self and mat2 must be matrices")
    check_inner(self, mat2)
    _check_dtypes("mm", self, mat2)
    _check_out(out, (self.shape[0], mat2.shape[1]), self.dtype, "mm", apart=self.shape[1] != 0)
    product(_batched(_apart(self, out)), _batched(_apart(mat2, out)), _batched(out))
    return out


@implements("bmm.out")
def bmm_out(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """(batch, m, k) @ (batch, k, n)."""
    _check_batches(self, mat2)
    _check_out(out, (self.shape[0], self.shape[1], mat2.shape[2]), self.dtype, "bmm", apart=False)
    product(_apart(self, out), _apart(mat2, out), out)
    return out


def _check_batches(batch1: torch.Tensor, batch2: torch.Tensor) -> None:
    if batch1.dim() != 3 or batch2.dim() != 3:
        raise RuntimeError("batch1 and batch2 must be 3D tensors")
    expected = [batch1.shape[0], batch1.shape[2]]
    if list(batch2.shape[:2]) != expected:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: {expected} but got: "
            f"{list(batch2.shape[:2])}."
        )
    _check_dtypes("bmm", batch1, batch2)


@implements("addmm.out")
def addmm_out(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """beta * self + alpha * mat1 @ mat2."""
    return _addmm(self, mat1, mat2, beta, alpha, out)


def _addmm(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    beta: float,
    alpha: float,
    out: torch.Tensor,
    finish: Finish = AS_IS,
) -> torch.Tensor:
    if mat1.dim() != 2 or mat2.dim() != 2:
        raise RuntimeError(f"mat1 and mat2 must be matrices, got {mat1.dim()}-D and {mat2.dim()}-D")
    check_inner(mat1, mat2)
    _check_dtypes("addmm", mat1, mat2)
    _check_out(out, (mat1.shape[0], mat2.shape[1]), mat1.dtype, "addmm")
    _refuse_parts(out, self, mat1, mat2)
    mat1, mat2 = _apart(mat1, out), _apart(mat2, out)
    product(_batched(mat1), _batched(mat2), _batched(out), _batched(self.expand(out.shape)), alpha, beta, finish)
    return out


@implements("baddbmm.out")
def baddbmm_out(
    self: torch.Tensor,
    batch1: torch.Tensor,
    batch2: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """beta * self + alpha * batch1 @ batch2."""
    _check_batches(batch1, batch2)
    _check_out(out, (batch1.shape[0], batch1.shape[1], batch2.shape[2]), batch1.dtype, "baddbmm")
    _refuse_parts(out, self, batch1, batch2)
    product(_apart(batch1, out), _apart(batch2, out), out, self, alpha, beta)
    return out


@implements("addbmm.out")
def addbmm_out(
    self: torch.Tensor,
    batch1: torch.Tensor,
    batch2: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    out: torch.Tensor,
) -> torch.Tensor:
    """beta * self + alpha * the sum of batch1 @ batch2 over the batch."""
    _check_batches(batch1, batch2)
    batch, rows, inner = batch1.shape
    # The batch is one more inner dimension: sum over b and k of batch1[b, :, k] batch2[b, k, :].
    left = batch1.permute(1, 0, 2).reshape(rows, batch * inner)
    return addmm_out(self, left, batch2.reshape(batch * inner, batch2.shape[2]), beta=beta, alpha=alpha, out=out)


@implements("addbmm")
def addbmm(
    self: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """`addbmm_out` into a new tensor."""
    out = batch1.new_empty((batch1.shape[1], batch2.shape[-1]))
    return addbmm_out(self, batch1, batch2, beta=beta, alpha=alpha, out=out)


@implements("addbmm_")
def addbmm_(
    self: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """`addbmm_out` into self."""
    return addbmm_out(self, batch1, batch2, beta=beta, alpha=alpha, out=self)


@implements("addmv.out")
def addmv_out(
    self: torch.Tensor, mat: torch.Tensor, vec: torch.Tensor, *, beta: float = 1, alpha: float = 1, out: torch.Tensor
) -> torch.Tensor:
    """beta * self + alpha * mat @ vec."""
    _check_dtypes("addmv", mat, vec)
    _check_out(out, (mat.shape[0],), mat.dtype, "addmv")
    _refuse_parts(out, self, mat, vec)
    added = self.expand(out.shape).reshape(1, -1, 1)
    product(
        _batched(_apart(mat, out)),
        _apart(vec, out).reshape(1, -1, 1),
        out.view(1, -1, 1) if out.is_contiguous() else out[None, :, None],
        added,
        alpha,
        beta,
    )
    return out


# One rounding of half types; where beta is zero, NaN in the matrix does not count.
_addr = Pointwise(
    "addr",
    ("s0 == C(K(0.0)) ? s1 * b * c : s0 * a + s1 * b * c",),
    3,
    "cc",
    by_type={"bool": "(s0 != 0 && a != 0) || (s1 != 0 && b != 0 && c != 0)"},
    complex=True,
)


def _addr_into(
    out: torch.Tensor | None, self: torch.Tensor, vec1: torch.Tensor, vec2: torch.Tensor, beta: float, alpha: float
) -> torch.Tensor:
    for name, vector in (("vec1", vec1), ("vec2", vec2)):
        if vector.dim() != 1:
            raise RuntimeError(f"addr: Expected 1-D argument {name}, but got {vector.dim()}-D")
    sizes = (vec1.numel(), vec2.numel())
    if self is not out:
        self = self.expand(sizes)
    if self.dim() != 2:
        raise RuntimeError(f"2D tensor expected, got {self.dim()}D tensor for input")
    if self.shape != sizes:
        shapes = f"{list(self.shape)}, v1: {list(vec1.shape)}, v2: {list(vec2.shape)}"
        raise RuntimeError(f"size mismatch, input: {shapes}")
    dtype = torch.promote_types(torch.promote_types(self.dtype, vec1.dtype), vec2.dtype)  # none has no dimensions
    for name, number in (("beta", beta), ("alpha", alpha)):
        if isinstance(number, bool) and dtype != torch.bool:
            raise RuntimeError(f"Boolean {name} only supported for Boolean results.")
        if not (dtype.is_floating_point or dtype.is_complex or isinstance(number, int)):
            raise RuntimeError(f"For integral input tensors, argument {name} must not be a floating point number.")
    return _addr((out,), (self, vec1.unsqueeze(1), vec2), (beta, alpha))[0]


@implements("addr")
def addr(
    self: torch.Tensor, vec1: torch.Tensor, vec2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    """beta * self + alpha * the outer product of vec1 and vec2."""
    return _addr_into(None, self, vec1, vec2, beta, alpha)


@implements("addr.out")
def addr_out(
    self: torch.Tensor, vec1: torch.Tensor, vec2: torch.Tensor, *, beta: float = 1, alpha: float = 1, out: torch.Tensor
) -> torch.Tensor:
    """`addr` into `out`."""
    return _addr_into(out, self, vec1, vec2, beta, alpha)


@implements("dot")
def dot(self: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The sum of products of two vectors. RuntimeError for others."""
    if self.dim() != 1 or tensor.dim() != 1:
        raise RuntimeError(f"1D tensors expected, but got {self.dim()}D and {tensor.dim()}D tensors")
    require_dtype("dot", self, _MULTIPLIED)
    if self.dtype != tensor.dtype:
        raise RuntimeError(f"dot : expected both vectors to have same dtype, but found {self.dtype} and {tensor.dtype}")
    if self.shape != tensor.shape:
        raise RuntimeError(
            f"inconsistent tensor size, expected tensor [{self.shape[0]}] and src [{tensor.shape[0]}] to have the same "
            f"number of elements, but got {self.shape[0]} and {tensor.shape[0]} elements respectively"
        )
    if self.dtype in (torch.float16, torch.bfloat16):
        return (self.float() * tensor.float()).sum().to(self.dtype)
    return (self * tensor).sum(dtype=self.dtype)


@implements("vdot")
def vdot(self: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """`dot` with self conjugated."""
    return dot(self.conj(), other)


_RELU = Finish("((x) < ACC(0) ? ACC(0) : (x))")
_GELU = Finish("maths::gelu(x)", "lib.special")


@implements("_addmm_activation.out")
def addmm_activation_out(
    self: torch.Tensor,
    mat1: torch.Tensor,
    mat2: torch.Tensor,
    *,
    beta: float = 1,
    alpha: float = 1,
    use_gelu: bool = False,
    out: torch.Tensor,
) -> torch.Tensor:
    """`addmm_out`, then GELU or ReLU, in one kernel where the result is floating point."""
    if out.is_floating_point():
        return _addmm(self, mat1, mat2, beta, alpha, out, _GELU if use_gelu else _RELU)
    addmm_out(self, mat1, mat2, beta=beta, alpha=alpha, out=out)
    return out.copy_(torch.nn.functional.gelu(out)) if use_gelu else out.relu_()


@implements("_int_mm.out")
def int_mm_out(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """self (m, k) and mat2 (k, n) of int8, out (m, n) of int32."""
    for name, matrix in (("self", self), ("mat2", mat2)):
        if matrix.dim() != 2:
            raise RuntimeError(f"Expected {name} to be of dimension 2 but got {matrix.dim()}")
        if matrix.dtype != torch.int8:
            raise RuntimeError(f"Expected {name} dtype to be of type int8 but got {matrix.dtype}")
    if self.shape[1] != mat2.shape[0]:
        raise RuntimeError(f"self.size(1) needs to match mat2.size(0) but got {self.shape[1]} and {mat2.shape[0]}")
    _check_out(out, (self.shape[0], mat2.shape[1]), torch.int32, "_int_mm")
    product(_batched(self), _batched(mat2), _batched(out))
    return out


@implements("_int_mm")
def int_mm(self: torch.Tensor, mat2: torch.Tensor) -> torch.Tensor:
    """(m, k) @ (k, n) of int8, in int32."""
    return int_mm_out(self, mat2, out=self.new_empty((self.shape[0], mat2.shape[-1]), dtype=torch.int32))
