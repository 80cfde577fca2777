"""Reductions: a state, a step and a merge make the kernels for every shape, dtype and memory layout.

Here shapes and strides become a launch; kernels/reduction.slang is the skeleton that the generated source precedes.
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from portable_mps.dispatch.launch import grid
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import COMPLEX_TYPES, Storage, storage
from portable_mps.dispatch.strided import on_device, resized, wrapped_dim, written
from portable_mps.runtime import device
from portable_mps.runtime.kernel import KERNELS

THREADS = 256  # a workgroup, as in kernels/reduction.slang
_VECTOR = 4  # elements in one load where the reduced dimension is contiguous
_OUTER_HEIGHT = 8  # threads along the reduced dimensions where a kept one is innermost
_ENOUGH_GROUPS = 2048  # workgroups that fill a large device
_SPLIT_FROM = 32  # loads a thread from which it pays to split a reduction over workgroups
_RANKS = (1, 2, 4)  # kept or reduced dimensions that a kernel takes; more are made fewer by a copy
_STATE_BYTES = 32  # at most, in the memory between two dispatches
_LETTERS = "abcdefgh"
_CACHED = 8192  # launches remembered by a row

_ROUNDED = (torch.float16, torch.bfloat16, torch.bool)  # dtypes whose conversion a wider accumulator would not show

_LIMITS = {
    "float": ("asfloat(0xff800000u)", "asfloat(0x7f800000u)"),
    "double": ("-maths::inf_of(A(0))", "maths::inf_of(A(0))"),
    "int": ("int(0x80000000u)", "0x7fffffff"),
    "int64_t": ("int64_t(0x8000000000000000ull)", "0x7fffffffffffffffll"),
    "uint64_t": ("0ull", "0xffffffffffffffffull"),
}


class Accumulate(enum.Enum):
    """Which type a row computes in."""

    INPUT = "the input's compute type; bool as int"
    OUTPUT = "the first output's compute type; integers as int64"


@dataclass
class Reduction:
    """A reduction kernel family; every text is a Slang expression.

    state: the type of a partial result; identity: that of no elements. step: the state `s` after the i-th element with
    values `a`, `b`, … (in the accumulator type A), and scalars `k0`, `k1`, … (in A, too). merge: of the states `x` and
    `y`. results: one an output, of `s`, the count `n` of elements and the scalars. LOWEST and HIGHEST are A's ends.
    kernels/reducers.slangh has states and helpers. ordered: `i` counts in the input's logical order. complex: the texts
    hold for complex numbers, too, which have neither ends nor helpers. converts: elements are converted to the first
    output's dtype before they are accumulated, as ATen does for dtype=. like: the ATen operator whose dtypes on the CPU
    are the row's.
    """

    name: str
    identity: str
    step: str
    merge: str
    results: tuple[str, ...] = ("s",)
    state: str = "A"
    inputs: int = 1
    scalars: int = 0
    accumulate: Accumulate = Accumulate.INPUT
    ordered: bool = False
    complex: bool = False
    converts: bool = False
    like: str = ""
    _launches: dict[tuple[Any, ...], _Launch] = field(default_factory=dict, repr=False)

    def __call__(
        self,
        outputs: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        dims: tuple[int, ...],
        scalars: tuple[float, ...] = (),
    ) -> None:
        """Reduce inputs of one shape over `dims` (none negative, none twice) into outputs of the reduced shape.

        Outputs have the reduced dimensions with size 1 or lack them all. Of no elements, the result is the identity's.
        """
        first = inputs[0]
        on_device(*outputs, *inputs)
        if outputs[0].numel() == 0:
            return
        strides = outputs[0].stride()
        for i, output in enumerate(outputs[1:], 1):
            if output.stride() != strides:  # one set of strides serves all outputs in a kernel
                same = torch.empty_strided(output.shape, strides, dtype=output.dtype, device=output.device)
                self([*outputs[:i], same, *outputs[i + 1 :]], inputs, dims, scalars)
                output.copy_(same)
                return
        aligned = tuple([t.data_ptr() % (_VECTOR * t.element_size()) == 0 for t in inputs])
        dtypes = tuple([t.dtype for t in (*outputs, *inputs)])
        key = (dims, first.shape, strides, dtypes, aligned, *[t.stride() for t in inputs])
        launch = self._launches.get(key)
        if launch is None:
            plan = _plan(first.shape, dims, strides, [t.stride() for t in inputs], self.ordered)
            if max(len(plan.kept), len(plan.reduced)) > _RANKS[-1]:
                self._with_fewer_dimensions(outputs, inputs, dims, scalars)
                return
            if len(self._launches) >= _CACHED:
                self._launches.clear()
            launch = self._launches[key] = self._prepare(plan, dtypes, len(outputs), aligned)
        launch.record(outputs, inputs, scalars)

    def _with_fewer_dimensions(
        self,
        outputs: Sequence[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        dims: tuple[int, ...],
        scalars: tuple[float, ...],
    ) -> None:
        """Copies with the reduced dimensions last: one kept and one reduced dimension remain."""
        kept = [d for d in range(inputs[0].dim()) if d not in dims]
        count = math.prod(inputs[0].shape[d] for d in kept)
        moved = [t.permute(*kept, *dims).reshape(count, -1) for t in inputs]
        results = [torch.empty(count, dtype=o.dtype, device=o.device) for o in outputs]
        self(results, moved, (1,), scalars)
        for output, result in zip(outputs, results, strict=True):
            output.copy_(result.view(output.shape))

    def _prepare(
        self, plan: _Plan, dtypes: tuple[torch.dtype, ...], outputs: int, aligned: tuple[bool, ...]
    ) -> _Launch:
        if self.like:
            refuse_as_cpu(self.like, *dtypes[outputs:], out=dtypes[:outputs] if self.converts else ())
        operands = [storage(dtype, self.complex) for dtype in dtypes]
        accumulator = self._accumulator(operands[0], operands[outputs])
        kept_count = math.prod(d[0] for d in plan.kept)
        reduced_count = math.prod(d[0] for d in plan.reduced)
        vectors = () if any(dtype.is_complex for dtype in dtypes[outputs:]) else _vectors(plan, aligned)
        shape = _geometry(kept_count, reduced_count, plan.reduced_innermost, bool(vectors))
        ranks = (_rank_class(len(plan.kept)), _rank_class(len(plan.reduced)))

        source = self._source(operands[:outputs], operands[outputs:], accumulator, ranks, plan.wide, vectors)
        index, offset = ("Q", "q") if plan.wide else ("I", "i")
        layout = struct.Struct(
            f"@{len(operands)}Q{self.scalars}{'d' if accumulator == 'double' else 'f'}4{index}I"
            + f"{index}{1 + self.inputs}{offset}" * ranks[0]
            + f"{index}{self.inputs}{offset}" * ranks[1]
            + "0Q"
        )
        kept = [*plan.kept, *[(1, 0, *[0] * self.inputs)] * (ranks[0] - len(plan.kept))]
        reduced = [*plan.reduced, *[(1, *[0] * self.inputs)] * (ranks[1] - len(plan.reduced))]
        sizes = [x for dimension in (*kept, *reduced) for x in dimension]
        compile_ = device.current().compiler.compile
        constants = (kept_count, reduced_count, shape.split_size, shape.splits, shape.geometry, *sizes)
        merge, merge_groups, merge_constants = None, 0, constants
        if shape.splits > 1:
            merge = compile_(f"{self.name}_merge", source, layout.size, "merge_splits")
            height_log2 = min(8, (shape.splits - 1).bit_length())
            merge_groups = -(-kept_count // (THREADS >> height_log2))
            merge_constants = (*constants[:4], height_log2 | 16, *sizes)
        return _Launch(
            kernel=compile_(self.name, source, layout.size),
            groups=grid(shape.groups),
            layout=layout,
            constants=constants,
            partial_bytes=kept_count * shape.splits * _STATE_BYTES,
            merge=merge,
            merge_groups=grid(merge_groups),
            merge_constants=merge_constants,
        )

    def _accumulator(self, output: Storage, first: Storage) -> str:
        if self.accumulate is Accumulate.INPUT:
            return "int" if first.compute == "bool" else first.compute
        return output.compute if output.compute in ("float", "double", *COMPLEX_TYPES) else "int64_t"

    def _source(
        self,
        outputs: list[Storage],
        inputs: list[Storage],
        accumulator: str,
        ranks: tuple[int, int],
        wide: bool,
        vectors: tuple[bool, ...],
    ) -> str:
        """The generated part, then the skeleton. vectors: as of `_vectors`."""
        names = [f"i{k}" for k in range(self.inputs)]
        letters = _LETTERS[: self.inputs]
        index, offset = ("uint64_t", "int64_t") if wide else ("uint", "int")
        if accumulator in COMPLEX_TYPES:
            helpers = ["import lib.complex;"]
        else:
            low, high = _LIMITS[accumulator]
            helpers = [f"#define LOWEST {low}", f"#define HIGHEST {high}", '#include "reducers.slangh"']
        fields = [f"{o.type}* o{k};" for k, o in enumerate(outputs)]
        fields += [f"{t.type}* i{k};" for k, t in enumerate(inputs)]
        fields += [f"A k{k};" for k in range(self.scalars)]
        fields += ["Index kept; Index reduced; Index split_size; Index splits; uint geometry;"]
        for prefix, rank, strides in (("kept", ranks[0], ["o", *names]), ("reduced", ranks[1], names)):
            for d in range(rank):
                fields.append(f"Index {prefix}_size{d}; Offset {' '.join(f'{prefix}_{s}_{d},' for s in strides)[:-1]};")
        scalars = [f"let k{k} = p.k{k};" for k in range(self.scalars)]
        values = [f"let {c} = v.{c};" for c in letters]
        results = [f"p.o{k}[at] = {o.store.format(f'({self.results[k]})')};" for k, o in enumerate(outputs)]
        target = outputs[0] if self.converts and outputs[0].dtype in _ROUNDED else None

        def assigned(to: str, elements: Sequence[str]) -> list[str]:
            operands = zip(letters, inputs, elements, strict=True)
            return [f"{to}.{c} = {_loaded(operand, accumulator, element, target)};" for c, operand, element in operands]

        elements = [f"p.i{k}[at.i{k}]" for k in range(self.inputs)]
        lines = [
            *("import lib.dtypes;", "import lib.casts;", "import lib.maths;"),
            *(f"typealias A = {accumulator};", f"typealias Index = {index};", f"typealias Offset = {offset};"),
            f"#define WIDTH {_VECTOR if vectors else 1}u",
            *helpers,
            f"typealias State = {self.state};",
            f"struct Params {{ {' '.join(fields)} }};",
            f"struct Offsets {{ Offset o; {' '.join(f'Offset {n};' for n in names)} }};",
            f"struct Values {{ {' '.join(f'A {c};' for c in letters)} }};",
            f"State identity() {{ return {self.identity}; }}",
            f"State step(State s, Values v, Index i, Params p) {{ {' '.join(scalars + values)} return {self.step}; }}",
            f"State merge(State x, State y) {{ return {self.merge}; }}",
            "void finish(Params p, Offset at, State s)",
            f"{{ let n = p.reduced; {' '.join(scalars + results)} }}",
            "Offsets kept_offsets(Params p, Index output)",
            "{ Offsets at = {}; Index rest = output;",
            *_advance("kept", ranks[0], ["o", *names]),
            "return at; }",
            "Values load_one(Params p, Offsets base, Index element)",
            "{ Offsets at = base; Index rest = element;",
            *_advance("reduced", ranks[1], names),
            f"Values v; {' '.join(assigned('v', elements))} return v; }}",
            "void load(Params p, Offsets base, Index unit, out Values v[WIDTH])",
        ]
        if vectors:
            lines += ["{ Offsets at = base; Index rest = unit * WIDTH;", *_advance("reduced", ranks[1], names)]
            for k in (k for k, is_vector in enumerate(vectors) if is_vector):
                pointee = f"vector<{inputs[k].type}, {_VECTOR}>"
                lines.append(f"{pointee} raw{k} = load_vector(({pointee}*)(p.i{k} + at.i{k}));")
                elements[k] = f"raw{k}[c]"
            body = " ".join(assigned("v[c]", elements))
            lines.append(f"[ForceUnroll] for (uint c = 0; c < WIDTH; ++c) {{ {body} }} }}")
        else:
            lines.append("{ v[0] = load_one(p, base, unit); }")
        return "\n".join(lines) + "\n" + (KERNELS / "reduction.slang").read_text()


def _loaded(operand: Storage, accumulator: str, element: str, target: Storage | None) -> str:
    """An element in the accumulator's type, by way of `target`'s dtype."""
    value = operand.load.format(element)
    if target is not None and target.dtype != operand.dtype:
        operand, value = target, target.load.format(target.store.format(value))
    return value if operand.compute == accumulator else f"cast_{accumulator}({value})"


def _advance(prefix: str, rank: int, operands: list[str]) -> list[str]:
    """Statements that add the offsets of the linear index `rest` over `rank` dimensions to `at`."""
    lines = []
    for d in range(rank):
        if d == rank - 1:
            lines.append("{ Offset place = Offset(rest);")
        else:
            lines.append(f"{{ Index quotient = rest / p.{prefix}_size{d};")
            lines.append(f"  Offset place = Offset(rest - quotient * p.{prefix}_size{d}); rest = quotient;")
        lines += [f"  at.{o} += place * p.{prefix}_{o}_{d};" for o in operands]
        lines.append("}")
    return lines


@dataclass(frozen=True)
class _Launch:
    """A prepared launch: all but the addresses and the scalars. Group counts are of workgroups."""

    kernel: Any
    groups: tuple[int, int, int]
    layout: struct.Struct
    constants: tuple[int, ...]
    partial_bytes: int
    merge: Any
    merge_groups: tuple[int, int, int]
    merge_constants: tuple[int, ...]

    def record(
        self, outputs: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], scalars: tuple[float, ...]
    ) -> None:
        stream = device.current().stream
        targets = [o.data_ptr() for o in outputs]
        sources = [t.data_ptr() for t in inputs]
        places = range(0, 8 * (len(targets) + len(sources)), 8)
        if self.merge is None:
            packed = self.layout.pack(*targets, *sources, *scalars, *self.constants)
            return stream.launch(self.kernel, packed, self.groups, inputs, outputs, places)
        with stream.lock:
            partials = torch.empty(self.partial_bytes, dtype=torch.uint8, device=inputs[0].device)
            between = partials.data_ptr()
            packed = self.layout.pack(between, *targets[1:], *sources, *scalars, *self.constants)
            stream.launch(self.kernel, packed, self.groups, inputs, (partials,), places)
            packed = self.layout.pack(*targets, between, *sources[1:], *scalars, *self.merge_constants)
            stream.launch(self.merge, packed, self.merge_groups, (partials,), outputs, places)


class _Plan(NamedTuple):
    """Collapsed dimensions, the innermost first: (size, output stride, input strides…), reduced ones without the
    output's. wide: some index or offset needs 64 bits."""

    kept: list[tuple[int, ...]]
    reduced: list[tuple[int, ...]]
    reduced_innermost: bool
    wide: bool


def _plan(
    shape: Sequence[int],
    dims: tuple[int, ...],
    output_strides: tuple[int, ...],
    input_strides: list[tuple[int, ...]],
    ordered: bool,
) -> _Plan:
    keeps_dims = len(output_strides) == len(shape)
    kept, reduced = [], []
    place = 0
    for d, size in enumerate(shape):
        strides = tuple([s[d] for s in input_strides])
        if d in dims:
            reduced.append((size, *strides))
        else:
            kept.append((size, output_strides[d if keeps_dims else place], *strides))
            place += 1
    kept = _collapse(sorted(kept, key=lambda row: row[2:] + row[1:2], reverse=True))
    reduced = _collapse(reduced if ordered else sorted(reduced, key=lambda row: row[1:], reverse=True))
    inner = not kept or not reduced or reduced[0][1] < kept[0][2]
    far = max(
        [sum((row[0] - 1) * row[2 + i] for row in kept) + sum((row[0] - 1) * row[1 + i] for row in reduced)
         for i in range(len(input_strides))]
    )  # fmt: skip
    far = max(far, sum((row[0] - 1) * row[1] for row in kept))
    count = math.prod(shape)
    return _Plan(kept, reduced, inner, max(far, count) >= 2**31 - THREADS * _VECTOR)


def _collapse(rows: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Rows (size, strides…), outermost first, with neighbours merged and the innermost first."""
    merged: list[tuple[int, ...]] = []
    for row in reversed(rows):
        if row[0] == 1:
            continue
        if merged and all(s == merged[-1][0] * t for s, t in zip(row[1:], merged[-1][1:], strict=True)):
            merged[-1] = (merged[-1][0] * row[0], *merged[-1][1:])
        else:
            merged.append(row)
    return merged


def _vectors(plan: _Plan, aligned: tuple[bool, ...]) -> tuple[bool, ...]:
    """Which inputs are read by vectors along the innermost reduced dimension, where the others have one element; no
    flags where any of them has neither."""
    size, *steps = plan.reduced[0] if plan.reduced else (0,)
    outer = plan.reduced[1:]
    if size < 4 * _VECTOR or (outer and size % _VECTOR):
        return ()
    flags = []
    for i, step in enumerate(steps):
        strides = [row[2 + i] for row in plan.kept] + [row[1 + i] for row in outer]
        flags.append(step == 1 and aligned[i] and all(stride % _VECTOR == 0 for stride in strides))
        if step != 0 and not flags[i]:
            return ()
    return tuple(flags) if any(flags) else ()


def _rank_class(rank: int) -> int:
    return next(r for r in _RANKS if rank <= r)


class _Geometry(NamedTuple):
    """groups: workgroups of the first dispatch. geometry: log2 of the threads along the reduction, plus 16 where the
    reduced dimensions are innermost. split_size is in loads."""

    groups: int
    splits: int
    split_size: int
    geometry: int


def _geometry(kept: int, reduced: int, reduced_innermost: bool, vector: bool) -> _Geometry:
    loads = reduced // _VECTOR if vector else reduced
    if reduced_innermost:
        height = _power_of_two(-(-loads // 4), THREADS)
    else:
        height = max(_power_of_two(-(-loads // 8), _OUTER_HEIGHT), THREADS // _power_of_two(kept, THREADS))
        height = min(height, _power_of_two(loads, THREADS))
    blocks = -(-kept // (THREADS // height))
    each = -(-loads // height)
    splits = 1
    if blocks < _ENOUGH_GROUPS and each >= _SPLIT_FROM:
        splits = min(-(-_ENOUGH_GROUPS // blocks), each // (_SPLIT_FROM // 2))
    split_size = -(-loads // splits)
    split_size = -(-split_size // height) * height
    splits = max(1, -(-loads // split_size)) if split_size else 1
    return _Geometry(blocks * splits, splits, split_size, (height.bit_length() - 1) | (16 if reduced_innermost else 0))


def _power_of_two(at_least: int, at_most: int) -> int:
    return min(1 << max(at_least - 1, 0).bit_length(), at_most)


# Arguments -------------------------------------------------------------------------------------------


def canonical_dims(dim: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Dimensions as non-negative numbers, sorted; all of them for None or an empty list. Errors are torch's."""
    if dim is None:
        return tuple(range(rank))
    wanted = (dim,) if isinstance(dim, int) else dim
    if not wanted:
        return tuple(range(rank))
    found: list[int] = []
    for d in (wrapped_dim(d, rank) for d in wanted):
        if d in found:
            raise RuntimeError(f"dim {d} appears multiple times in the list of dims")
        found.append(d)
    return tuple(sorted(found)) if rank else ()


def reduced_shape(shape: Sequence[int], dims: tuple[int, ...], keepdim: bool) -> list[int]:
    """The shape of a reduction over `dims`."""
    if keepdim:
        return [1 if d in dims else size for d, size in enumerate(shape)]
    return [size for d, size in enumerate(shape) if d not in dims]


def check_out(out: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> None:
    """Make `out` of a direct call with out= fit: RuntimeError for another dtype, a resize for another shape."""
    if dtype is not None:
        on_device(out)
        written(out, dtype)
    resized(out, shape)
