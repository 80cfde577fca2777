"""torch._foreach_*: elementwise operators and norms over lists of tensors, one dispatch for all.

torch.optim and gradient clipping run on them. Lists that the kernels do not take (integers, several dtypes, strides
that differ) run in torch's loop over the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch.launch import grid
from portable_mps.dispatch.lists import ListKernel, Table, table_of, types
from portable_mps.dispatch.promotion import summed_in
from portable_mps.dispatch.registry import register

_apply = ListKernel("foreach", "apply", addresses=1, numbers=2)
_norm_of_parts = ListKernel("foreach", "norm_of_parts", addresses=1, numbers=2)
_norm = ListKernel("foreach", "norm", addresses=1, numbers=2)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_LOOP = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)  # where torch has its loops, for any device

Tensors = list[torch.Tensor]
Number = complex | torch.Tensor | Sequence[float] | None


def _dtype_of(lists: Sequence[Tensors]) -> torch.dtype | None:
    """The floating dtype that the first tensors of the lists share."""
    if not all(lists):
        return None
    dtype = lists[0][0].dtype
    return dtype if dtype in _FLOATS and all(tensors[0].dtype == dtype for tensors in lists) else None


def _source(number: Number, operands: Tensors) -> tuple[str, float, torch.Tensor | None] | None:
    """How the kernel gets a number, a tensor of one or a number for each tensor; None for what it does not take."""
    count, dtype = len(operands), operands[0].dtype
    if isinstance(number, torch.Tensor):
        if number.dtype != dtype and not all(t.dim() for t in operands):
            return None  # between scalars, dtypes are promoted
        if number.dim() == 0 and number.is_mps and not number.is_complex():
            return "SCALAR", 0.0, number.to(summed_in(dtype))
        if number.is_mps or number.dim() > 1:
            return None
        number = number.tolist()
    if number is None:
        return "NUMBER", 0.0, None
    if isinstance(number, complex):
        return None
    values = [number] * count if isinstance(number, (int, float)) else number
    most = torch.finfo(dtype).max  # the loop's operators refuse what does not fit, or take it
    if len(values) != count or any(type(v) not in (int, float) or most < abs(v) < math.inf for v in values):
        return None
    if all(v == values[0] for v in values):
        return "NUMBER", float(values[0]), None
    return "NUMBERS", 0.0, torch.tensor(values, dtype=summed_in(dtype)).to("mps")


def _register(
    name: str, expression: str, lists: int, has_number: bool = False, has_factor: bool = False, in_place: bool = True
) -> None:
    """Operator `name` and its in-place form: of `lists` lists, then a number or numbers, then the factor alpha."""
    _register_form(name, expression, lists, has_number, has_factor, in_place=False)
    if in_place:
        base, dot, overload = name.partition(".")
        _register_form(f"{base}_{dot}{overload}", expression, lists, has_number, has_factor, in_place=True)


def _register_form(name: str, expression: str, lists: int, has_number: bool, has_factor: bool, in_place: bool) -> None:
    loop = _loop(name)

    def run(*arguments: Any, **keywords: Any) -> Tensors | None:
        operands: Sequence[Tensors] = arguments[:lists]
        factor = keywords.get("alpha", 1)
        # Left out where it is its default, 1.
        number = (arguments[lists] if len(arguments) > lists else 1) if has_number else None
        dtype = _dtype_of(operands)
        if dtype is None or type(factor) not in (int, float) or (source := _source(number, operands[0])) is None:
            return loop(*arguments, **keywords)
        results = operands[0] if in_place else _C.empty_like_each(operands[0])
        table = table_of([results, *operands])
        if table is None:
            del results  # the loop makes its own
            return loop(*arguments, **keywords)
        _launch(table, dtype, dtype, expression, source, float(factor))
        return None if in_place else results

    register(name, run)


def _loop(name: str) -> Callable[..., Any]:
    base, _, overload = name.partition(".")

    def run(*arguments: Any, **keywords: Any) -> Any:
        operator = getattr(getattr(torch.ops.aten, base), overload or "default")
        return operator.redispatch(_LOOP, *arguments, **keywords)

    return run


def _launch(
    table: Table,
    dtype: torch.dtype,
    result: torch.dtype,
    expression: str,
    source: tuple[str, float, torch.Tensor | None] = ("NUMBER", 0.0, None),
    factor: float = 1.0,
) -> None:
    """Of the table's first list, of dtype `result`, make the expression of the others, of `dtype`."""
    kind, number, values = source
    defines = {"EXPRESSION": expression, "SOURCE": kind, **types("IN", dtype), **types("OUT", result)}
    _apply(table, dtype, (values,), (number, factor), **defines)


_UNARY = (
    "acos asin atan ceil cos cosh exp expm1 floor log log10 log1p log2 round rsqrt sigmoid sin sinh sqrt tan tanh trunc"
)
for _name in _UNARY.split():
    _register(f"_foreach_{_name}", f"maths::{_name}(a)", 1)
_register("_foreach_abs", "maths::abs(a)", 1)
_register("_foreach_neg", "-a", 1)
_register("_foreach_frac", "maths::frac(a)", 1)
_register("_foreach_reciprocal", "maths::rcp(a)", 1)
_register("_foreach_sign", "a > A(0) ? A(1) : (a < A(0) ? A(-1) : A(0))", 1)

for _name, _expression in {
    "add": "a + k * {}",
    "sub": "a - k * {}",
    "mul": "a * {}",
    "div": "maths::div(a, {})",
    "pow": "maths::pow(a, {})",
    "clamp_min": "maths::maximum(a, {})",
    "clamp_max": "maths::minimum(a, {})",
    "maximum": "maths::maximum(a, {})",
    "minimum": "maths::minimum(a, {})",
}.items():
    _register(f"_foreach_{_name}.List", _expression.format("b"), 2)
    _register(f"_foreach_{_name}.Scalar", _expression.format("v"), 1, has_number=True)
    _register(f"_foreach_{_name}.ScalarList", _expression.format("v"), 1, has_number=True)
    if _name in ("add", "mul", "div"):
        _register(f"_foreach_{_name}.Tensor", _expression.format("v"), 1, has_number=True)

for _name, _expression in {"addcmul": "a + v * b * c", "addcdiv": "a + v * maths::div(b, c)"}.items():
    for _overload in ("Scalar", "ScalarList", "Tensor"):
        _register(f"_foreach_{_name}.{_overload}", _expression, 3, has_number=True)

# The form that is exact at both ends, as in binary.py.
_LERP = "abs({0}) < A(0.5) ? a + {0} * (b - a) : b - (b - a) * (A(1) - {0})"
_register("_foreach_lerp.List", _LERP.format("c"), 3)
_register("_foreach_lerp.Scalar", _LERP.format("v"), 2, has_number=True)
_register("_foreach_lerp.ScalarList", _LERP.format("v"), 2, has_number=True)

_zero_loop, _copy_loop, _norm_loop = (_loop(f"_foreach_{n}") for n in ("zero_", "copy_", "norm.Scalar"))


def foreach_zero_(self: Tensors) -> None:
    """Set all elements of the tensors to zero."""
    dtype = _dtype_of([self])
    table = None if dtype is None else table_of([self])
    if dtype is None or table is None:
        return _zero_loop(self)
    return _launch(table, dtype, dtype, "A(0)")


def foreach_copy_(self: Tensors, src: Tensors, non_blocking: bool = False) -> None:
    """Copy each of `src` to that of self, with conversion."""
    from_dtype, to_dtype = _dtype_of([src]), _dtype_of([self])
    table = None if from_dtype is None or to_dtype is None else table_of([self, src])
    if from_dtype is None or to_dtype is None or table is None:
        return _copy_loop(self, src, non_blocking)
    return _launch(table, from_dtype, to_dtype, "a")


# By order: what an element adds to a sum or a maximum, and what makes the norm of that.
_NORMS = {
    1.0: {"STEP(x)": "maths::abs(x)", "FINISH(x)": "x", "MAXIMUM": 0},
    2.0: {"STEP(x)": "((x) * (x))", "FINISH(x)": "maths::sqrt(x)", "MAXIMUM": 0},
    math.inf: {"STEP(x)": "maths::abs(x)", "FINISH(x)": "x", "MAXIMUM": 1},
}


def foreach_norm(self: Tensors, ord: float = 2, dtype: torch.dtype | None = None) -> Tensors:
    """The norm of each tensor."""
    defines: dict[str, Any] | None = _NORMS.get(float(ord)) if isinstance(ord, (int, float)) else None
    kind = _dtype_of([self])
    if defines is None or dtype is not None or kind is None or (ord == math.inf and not all(t.numel() for t in self)):
        return _norm_loop(self, ord, dtype)
    results = list(torch.empty(len(self), dtype=kind, device="mps").unbind())
    table = table_of([self, results], aside=1)
    if table is None:
        return _norm_loop(self, ord, dtype)
    values = torch.empty(table.groups[0] * table.groups[1], dtype=summed_in(kind), device="mps")
    defines = {**defines, **types("IN", kind), **types("OUT", kind)}
    _norm_of_parts(table, kind, (values,), (0.0, 0.0), **defines)
    _norm(table, kind, (values,), (0.0, 0.0), groups=grid(len(self)), **defines)
    return results


register("_foreach_zero_", foreach_zero_)
register("_foreach_copy_", foreach_copy_)
register("_foreach_norm.Scalar", foreach_norm)
