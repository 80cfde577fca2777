"""Reductions of fused kernels: their states, and how the threads of a workgroup are laid over rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from portable_mps.inductor.overrides import compute_type, literal

THREADS = 256  # a workgroup, as in kernels/place.slangh
KEPT = 8  # elements of a row that a thread keeps in registers at most
_A_THREAD = 4  # elements of a row that are worth a thread
_OUTER_HEIGHT = 8  # threads along a row where neighbouring rows are neighbours in memory


@dataclass(frozen=True)
class State:
    """What a reduction keeps, in Slang (kernels/lib/states.slangh).

    element: the type of a value. kind: that of the state. identity: of no elements. step: the state `{s}` after an
    element `{v}` (`{v1}`, `{v2}`: its other values) at place `{i}` of the row. merge: a function of two states.
    results: one a value, of the state `{s}`, with their dtypes.
    """

    element: str
    kind: str
    identity: str
    step: str
    merge: str
    results: tuple[tuple[str, torch.dtype], ...]

    @property
    def group_merge(self) -> str:
        """The function that merges the states of a row's threads."""
        return f"group_{self.merge}"

    def header(self) -> tuple[str, ...]:
        """Definitions in front of the kernel, each to stand there once."""
        whole = int(self.element not in ("float", "double"))
        return (
            _included("states", A=self.element, WHOLE=whole, **{"OF(name)": f"name##_{self.element}"}),
            f"groupshared {self.kind} states_{self.kind}[THREADS];",
            _included("group", STATE=self.kind, MERGE=self.merge, NAME=self.group_merge, SHARED=f"states_{self.kind}"),
        )


def _included(stem: str, **defines: object) -> str:
    """A file of kernels/lib with these definitions, which end behind it."""
    before = "".join(f"#define {name} {value}\n" for name, value in defines.items())
    behind = "".join(f"\n#undef {name.partition('(')[0]}" for name in defines)
    return f'{before}#include "lib/{stem}.slangh"{behind}'


def _ends(dtype: torch.dtype) -> tuple[str, str]:
    """The lowest and the highest value."""
    if dtype.is_floating_point:
        return literal(-float("inf"), dtype), literal(float("inf"), dtype)
    if dtype == torch.bool:
        return "false", "true"
    limits = torch.iinfo(dtype)
    return literal(limits.min, dtype), literal(limits.max, dtype)


def state_of(kind: str, dtype: torch.dtype, src_dtype: torch.dtype) -> State:
    """The state of Inductor's reduction `kind` of elements of src_dtype; NotImplementedError for one it has not."""
    if kind == "any" or (src_dtype == torch.bool and kind in ("max", "min", "sum", "prod", "xor_sum")):
        return _of_bool(kind, dtype)
    element = compute_type(src_dtype)
    low, high = _ends(src_dtype)
    simple = {
        "sum": ("0", "{s} + {v}", "plus"),
        "prod": ("1", "{s} * {v}", "times"),
        "max": (low, "maths::maximum({s}, {v})", "larger"),
        "min": (high, "maths::minimum({s}, {v})", "smaller"),
        "xor_sum": ("0", "{s} ^ {v}", "exclusive_or"),
    }
    if kind in simple:
        identity, step, merge = simple[kind]
        identity = f"{element}({identity})" if identity in ("0", "1") else identity
        return State(element, element, identity, step, f"{merge}_{element}", (("{s}", dtype),))
    base = kind.removesuffix("_with_value").removesuffix("_value")
    if base in ("argmax", "argmin"):
        function = f"{'largest' if base == 'argmax' else 'smallest'}_{element}"
        ranked = f"ranked_{element}"
        identity = f"{ranked}({low if base == 'argmax' else high}, 0x7fffffffffffffffll)"
        results: tuple[tuple[str, torch.dtype], ...] = (("{s}.index", torch.int64),)
        if kind.endswith("_value"):
            results = (("{s}.value", src_dtype), *results)
        step = f"{function}({{s}}, {ranked}({{v}}, int64_t({{i}})))"
        return State(element, f"Ranked_{element}", identity, step, function, results)
    if kind in ("welford_reduce", "welford_combine"):
        moments = f"moments_{element}"
        step = f"extended_{element}({{s}}, {{v}})"
        if kind == "welford_combine":
            step = f"pooled_{element}({{s}}, {moments}({{v}}, {{v1}}, {{v2}}))"
        results = tuple((f"{{s}}.{part}", dtype) for part in ("mean", "deviations", "count"))
        zero = f"{element}(0)"
        identity = f"{moments}({zero}, {zero}, {zero})"
        return State(element, f"Moments_{element}", identity, step, f"pooled_{element}", results)
    if kind == "online_softmax_reduce":
        scaled = f"exponentials_{element}"
        results = (("{s}.maximum", dtype), ("{s}.sum", dtype))
        step = f"joined_{element}({{s}}, {scaled}({{v}}, {element}(1)))"
        identity = f"{scaled}({low}, {element}(0))"
        return State(element, f"Exponentials_{element}", identity, step, f"joined_{element}", results)
    raise NotImplementedError(f"torch.compile on mps has no reduction {kind} of {src_dtype}")


def _of_bool(kind: str, dtype: torch.dtype) -> State:
    step, identity, merge = {
        "any": ("{s} | int(cast_bool({v}))", "0", "either"),
        "max": ("{s} | int({v})", "0", "either"),
        "sum": ("{s} | int({v})", "0", "either"),
        "min": ("{s} & int({v})", "1", "both"),
        "prod": ("{s} & int({v})", "1", "both"),
        "xor_sum": ("{s} ^ int({v})", "0", "exclusive_or"),
    }[kind]
    return State("int", "int", identity, step, f"{merge}_int", (("{s} != 0", torch.bool),))


@dataclass(frozen=True)
class Geometry:
    """height threads along a row, neighbours in a subgroup if `along`; kept: elements of a thread, 0 for a loop."""

    height: int
    along: bool
    kept: int

    @property
    def width(self) -> int:
        """Rows of a workgroup."""
        return THREADS // self.height

    @property
    def code(self) -> int:
        """For kernels/place.slangh."""
        return (self.height.bit_length() - 1) | (16 if self.along else 0)


def geometry(rows: int, length: int, is_outer: bool, is_static: bool) -> Geometry:
    """For about so many rows of about so many elements. is_outer: neighbouring rows are neighbours in memory."""
    if is_outer:
        width = min(THREADS // _OUTER_HEIGHT, _power_of_two(rows))
        height = max(min(THREADS // width, _power_of_two(length)), 1)
        if height < THREADS // width:
            width = THREADS // height
    else:
        height = min(THREADS, _power_of_two(length if length <= 32 else -(-length // _A_THREAD)))
    kept = -(-length // height)
    return Geometry(height, not is_outer, kept if is_static and kept <= KEPT else 0)


def _power_of_two(n: int) -> int:
    """The next one that is no less."""
    return 1 << max(n - 1, 0).bit_length()
