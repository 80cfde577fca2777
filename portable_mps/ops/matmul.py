"""Matrix products: mm, bmm, their forms with an added term, and products with vectors."""

from __future__ import annotations

from typing import Any

import torch

from portable_mps.dispatch.checks import FLOATS, INTEGERS, require_dtype
from portable_mps.dispatch.launch import Prepared, grid, launch
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import storage, summed_in
from portable_mps.dispatch.registry import implements
from portable_mps.dispatch.strided import apart_or_same, on_device, separate
from portable_mps.runtime import device
from portable_mps.runtime.kernel import Template

_plain = Template("matmul", "matmul", "QQQqqqiiiiiiiii")
_plain_tiny = Template("matmul_tiny", "tiny", "QQQqqqqiiiiiiiii")
# By the type that is accumulated, which alpha and beta have, too.
_NUMBERS = {"float": "f", "double": "d", "int": "i", "int64_t": "q"}
_scaled = {acc: Template("matmul", "matmul", f"QQQQqqqqiiiiiiiiiii2{code}") for acc, code in _NUMBERS.items()}
_scaled_tiny = {acc: Template("matmul_tiny", "tiny", f"QQQQqqqqqiiiiiiiiiii2{code}") for acc, code in _NUMBERS.items()}
_outer = Template("matmul", "matmul", "QQQqqqqqiiiiiiiiiii")
_MAX_BATCH = 32768  # workgroups in z
_TINY_ELEMENTS, _TINY_DEPTH = 512, 64  # up to which a thread takes an element of the result


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


def _contiguous_way(tensor: torch.Tensor) -> torch.Tensor:
    """A (batch, rows, columns) view or copy with one of the last two strides equal to 1."""
    return tensor if 1 in tensor.stride()[1:] else tensor.contiguous()


def product(
    a: torch.Tensor,
    b: torch.Tensor,
    out: torch.Tensor,
    added: torch.Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 0.0,
) -> None:
    """out = alpha * a @ b + beta * added.

    a (batch, m, k), b (batch, k, n), out (batch, m, n), one dtype; added broadcasts to out. Any strides. Accumulates in
    float32 for half types, in the dtype's own width otherwise. a and b may be of two 8-bit float dtypes, and b of any
    that a's accumulator holds; out is then float32.
    """
    batch, n = a.shape[0], b.shape[2]
    if out.numel() == 0:
        return
    if a.shape[2] == 0:
        out.zero_() if added is None or beta == 0 else torch.mul(added.expand_as(out), beta, out=out)
        return
    if out.is_complex():
        return _complex_product(a, b, out, added, alpha, beta)
    if batch > _MAX_BATCH and not _is_tiny(a.shape[1], n, a.shape[2]):
        for start in range(0, batch, _MAX_BATCH):
            part = slice(start, start + _MAX_BATCH)
            product(a[part], b[part], out[part], None if added is None else added.expand_as(out)[part], alpha, beta)
        return
    if added is not None:
        added = added.expand_as(out)
        if beta != 0 and _overlaps(added, out):
            added = added.clone()
    a, b = _contiguous_way(a), _contiguous_way(b)
    d = out if added is None and alpha != 1 else added
    key: tuple[Any, ...] = (a.shape, n, a.stride(), b.stride(), out.stride(), a.dtype, b.dtype, out.dtype)
    key += (a.data_ptr() & 31, b.data_ptr() & 31)  # whether loads of four elements are aligned
    if d is not None:
        key += (d.stride(), alpha, beta)
    plan = _plans.get(key)
    if plan is None:
        if a.shape[2] > _longest():
            return _product_in_parts(a, b, out, added, alpha, beta)
        if len(_plans) >= _REMEMBERED:
            _plans.clear()
        plan = _plans[key] = _plan(a, b, out, d, alpha, beta)
    if d is None:
        plan.record((a, b, out), (a, b), (out,))
    else:
        plan.record((a, b, out, d), (a, b, d), (out,))


def _longest() -> int:
    """The longest inner dimension that one dispatch takes: 10 turns for 16 elements, where loops are limited."""
    return device.current().adapter.loop_limit // 10 * 16


def _product_in_parts(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, added: torch.Tensor | None, alpha: float, beta: float
) -> None:
    """`product` over parts of the inner dimension."""
    total = torch.zeros(out.shape, dtype=summed_in(out.dtype), device=out.device)
    for start in range(0, a.shape[2], _longest()):
        part = slice(start, start + _longest())
        product(a[:, :, part], b[:, part], total, total, beta=1.0)
    if alpha != 1:
        total *= alpha
    if added is not None and beta != 0:
        total += beta * added
    out.copy_(total)


_plans: dict[tuple[Any, ...], Prepared] = {}
_REMEMBERED = 8192  # plans


def _plan(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, d: torch.Tensor | None, alpha: float, beta: float
) -> Prepared:
    """The launch of `product`, all but the addresses; d is what beta is multiplied with."""
    batch, m, k = a.shape
    n = b.shape[2]
    sizes = (m, n, k, a.stride(1), a.stride(2), b.stride(1), b.stride(2), out.stride(1), out.stride(2))
    batches: tuple[int, ...] = (a.stride(0), b.stride(0), out.stride(0))
    added: tuple[Any, ...] = ()
    types = _types(a, b, out.dtype)
    if d is not None:
        number = float if out.is_floating_point() else int
        batches += (d.stride(0),)
        added = (d.stride(1), d.stride(2), number(alpha), number(beta))
    scaled = int(d is not None)
    if _is_tiny(m, n, k):
        template = _plain_tiny if d is None else _scaled_tiny[types["ACC"]]
        groups = grid(-(-out.numel() // 256))
        return Prepared(
            template, groups, (*batches, out.numel(), *sizes, *added), SCALED=scaled, OUTER=0, TINY=1, **types
        )
    tile, per_thread = _tile(m, n, batch)
    template = _plain if d is None else _scaled[types["ACC"]]
    groups = (-(-n // tile), -(-m // tile), batch)
    variant = {**types, **_layout(a, b, tile, per_thread)}
    return Prepared(template, groups, (*batches, *sizes, *added), SCALED=scaled, OUTER=0, **variant)


def _is_tiny(m: int, n: int, k: int) -> bool:
    return m * n <= _TINY_ELEMENTS and k <= _TINY_DEPTH


def summed_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """out (m, n) = the sum over the first dimension of a (outer, m, k) @ b (outer, k, n).

    The outer dimension is split over workgroups until they fill a large GPU; the parts are added up in float32.
    """
    outer, m, k = a.shape
    n = b.shape[2]
    if out.numel() == 0:
        return
    if outer == 0 or k == 0:
        out.zero_()
        return
    if k > _longest():
        total = torch.zeros((m, n), dtype=summed_in(out.dtype), device=out.device)
        for start in range(0, k, _longest()):
            part = torch.empty_like(total)
            summed_product(a[:, :, start : start + _longest()], b[:, start : start + _longest()], part)
            total += part
        out.copy_(total)
        return
    a, b = _contiguous_way(a), _contiguous_way(b)
    tile, per_thread = _tile(m, n, 1)
    tiles = -(-n // tile) * -(-m // tile)
    splits = max(1, min(outer, 512 // tiles, 256))
    step = min(-(-outer // splits), _longest() // k)
    splits = -(-outer // step)
    partial = out
    if splits > 1:
        partial = torch.empty((splits, m, n), dtype=summed_in(out.dtype), device="mps")
    c_batch, c_m, c_n = (0, *partial.stride()) if partial is out else partial.stride()
    batches = (a, b, partial, 0, 0, c_batch, a.stride(0), b.stride(0))
    sizes = (m, n, k, a.stride(1), a.stride(2), b.stride(1), b.stride(2), c_m, c_n, outer, step)
    variant = {**_types(a, b, partial.dtype), **_layout(a, b, tile, per_thread)}
    groups = (-(-n // tile), -(-m // tile), splits)
    launch(_outer, groups, batches + sizes, reads=(a, b), writes=(partial,), SCALED=0, OUTER=1, **variant)
    if splits > 1:
        out.copy_(partial.sum(0))


def _types(a: torch.Tensor, b: torch.Tensor, result: torch.dtype) -> dict[str, Any]:
    """The compile key's part that every kernel of products has."""
    a_row, b_row, result_row = storage(a.dtype, float8=True), storage(b.dtype, float8=True), storage(result)
    accumulator = "int" if a_row.compute == "bool" else a_row.compute
    fused = "fma(x, y, z)" if accumulator in ("float", "double") else "(x) * (y) + (z)"
    return {
        "A_T": a_row.type,
        "B_T": b_row.type,
        "C_T": result_row.type,
        "LOAD_A(x)": a_row.load.format("x"),
        "LOAD_B(x)": b_row.load.format("x"),
        "LOAD_C(x)": result_row.load.format("x"),
        "STORE_C(x)": result_row.store.format("x"),
        "ACC": accumulator,
        "MULTIPLY_ADD(x, y, z)": fused,
        **({"FLOAT8": 1} if a_row.module else {}),
    }


def _layout(a: torch.Tensor, b: torch.Tensor, tile: int, per_thread: int) -> dict[str, Any]:
    """The compile key's other part: the tile, and which way the operands are contiguous."""
    along_k, along_n = a.stride(2) == 1, b.stride(2) == 1
    vector = _aligned(a, 2 if along_k else 1) and _aligned(b, 2 if along_n else 1)
    return {
        "BM": tile,
        "BN": tile,
        "TM": per_thread,
        "TN": per_thread,
        "UNROLL": 2 if device.current().adapter.is_software else 16,  # the software driver gains nothing from more
        "A_ALONG_K": int(along_k),
        "B_ALONG_N": int(along_n),
        "VECTOR": int(vector),
    }


def _complex_product(
    a: torch.Tensor, b: torch.Tensor, out: torch.Tensor, added: torch.Tensor | None, alpha: complex, beta: complex
) -> None:
    """`product` as four real ones."""
    a, b = a.resolve_conj(), b.resolve_conj()
    parts = [torch.empty(out.shape, dtype=out.dtype.to_real(), device=out.device) for _ in range(2)]
    for part, first, second, sign in ((parts[0], a.real, b.real, -1), (parts[1], a.real, b.imag, 1)):
        product(first, second, part)
        product(a.imag, b.imag if sign < 0 else b.real, part, part, sign, 1)
    result = torch.complex(*parts)
    if alpha != 1:
        result *= alpha
    if added is not None and beta != 0:
        result += beta * added
    out.copy_(result)


def _tile(m: int, n: int, batch: int) -> tuple[int, int]:
    """Tile and elements a thread: large tiles once they fill a large GPU, small ones before."""
    if device.current().adapter.is_software:  # loads cost more than idle threads
        return 64, 8
    large = -(-m // 128) * -(-n // 128) * batch
    return (128, 8) if large >= 64 and min(m, n) >= 64 else (64, 4)


def _aligned(tensor: torch.Tensor, dim: int) -> bool:
    """Whether four elements along contiguous `dim` can be one load everywhere."""
    others = [tensor.stride(d) for d in range(3) if d != dim]
    start = tensor.data_ptr() % (4 * tensor.element_size()) == 0
    return tensor.stride(dim) == 1 and tensor.shape[dim] % 4 == 0 and start and all(s % 4 == 0 for s in others)


def _overlaps(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether writing b while reading a could differ from reading first: same memory at other places."""
    same_place = a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
    return not same_place and _shares(a, b)


def _shares(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _apart(factor: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """`factor`, or a copy of it where elements might be written before they are read."""
    if not _shares(factor, out) or 0 in (factor.numel(), out.numel()):
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
    """Refuse factors of two dtypes, or of one that is not multiplied, unless there is nothing to multiply."""
    if first.numel() and second.numel():
        require_dtype(_KERNELS.get(name, name), first, _MULTIPLIED)
    if first.dtype != second.dtype:
        raise RuntimeError(
            f"expected m1 and m2 to have the same dtype, but got: {first.dtype} != {second.dtype} ({name})"
        )


_KERNELS = {"mm": "addmm_impl_cpu_", "addmm": "addmm_impl_cpu_", "addmv": "addmv_impl_cpu"}


@implements("mm.out")
def mm_out(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    if self.dim() != 2 or mat2.dim() != 2:
        raise RuntimeError("self and mat2 must be matrices")
    check_inner(self, mat2)
    _check_dtypes("mm", self, mat2)
    _check_out(out, (self.shape[0], mat2.shape[1]), self.dtype, "mm", apart=self.shape[1] != 0)
    product(_batched(_apart(self, out)), _batched(_apart(mat2, out)), _batched(out))
    return out


@implements("bmm.out")
def bmm_out(self: torch.Tensor, mat2: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
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
    if mat1.dim() != 2 or mat2.dim() != 2:
        raise RuntimeError(f"mat1 and mat2 must be matrices, got {mat1.dim()}-D and {mat2.dim()}-D")
    check_inner(mat1, mat2)
    _check_dtypes("addmm", mat1, mat2)
    _check_out(out, (mat1.shape[0], mat2.shape[1]), mat1.dtype, "addmm")
    _refuse_parts(out, self, mat1, mat2)
    mat1, mat2 = _apart(mat1, out), _apart(mat2, out)
    product(_batched(mat1), _batched(mat2), _batched(out), _batched(self.expand(out.shape)), alpha, beta)
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
    _check_batches(batch1, batch2)
    batch, rows, inner = batch1.shape
    # The batch is one more inner dimension: sum over b and k of batch1[b, :, k] batch2[b, k, :].
    left = batch1.permute(1, 0, 2).reshape(rows, batch * inner)
    return addmm_out(self, left, batch2.reshape(batch * inner, -1), beta=beta, alpha=alpha, out=out)


@implements("addbmm")
def addbmm(
    self: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    out = batch1.new_empty((batch1.shape[1], batch2.shape[-1]))
    return addbmm_out(self, batch1, batch2, beta=beta, alpha=alpha, out=out)


@implements("addbmm_")
def addbmm_(
    self: torch.Tensor, batch1: torch.Tensor, batch2: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    return addbmm_out(self, batch1, batch2, beta=beta, alpha=alpha, out=self)


@implements("addmv.out")
def addmv_out(
    self: torch.Tensor, mat: torch.Tensor, vec: torch.Tensor, *, beta: float = 1, alpha: float = 1, out: torch.Tensor
) -> torch.Tensor:
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
    return _addr_into(None, self, vec1, vec2, beta, alpha)


@implements("addr.out")
def addr_out(
    self: torch.Tensor, vec1: torch.Tensor, vec2: torch.Tensor, *, beta: float = 1, alpha: float = 1, out: torch.Tensor
) -> torch.Tensor:
    return _addr_into(out, self, vec1, vec2, beta, alpha)


@implements("dot")
def dot(self: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
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
    return dot(self.conj(), other)


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
    return int_mm_out(self, mat2, out=self.new_empty((self.shape[0], mat2.shape[-1]), dtype=torch.int32))
