"""Elementwise operators: a scalar expression and a promotion make every kernel and every calling form.

A call stays in C++ (csrc/pointwise.cpp): at::TensorIterator broadcasts, promotes, checks and collapses, the parameters
are packed, the dispatch is recorded. Here the rows are, and the source of the variant that the planner asks for.
"""

from __future__ import annotations

import enum
import functools
from dataclasses import dataclass, field
from typing import Any

import torch

from portable_mps import _C
from portable_mps.dispatch import registry
from portable_mps.dispatch.probe import refuse_as_cpu
from portable_mps.dispatch.promotion import COMPLEX_TYPES, Promotion, Storage, storage_of_code
from portable_mps.runtime import device


class Check(enum.IntEnum):
    """What torch checks of an operator beside what TensorIterator does. The values are those of csrc/pointwise.h."""

    NONE = 0
    ALPHA = 1
    SUBTRACTION = 2
    DIVISOR = 3
    NUMBER = 4
    EXPONENT = 5


_VECTOR, _VECTOR_OF_WIDE = 4, 2  # elements of a vector, and of one where an operand's take 8 bytes: csrc/iterator.cpp
_SEVERAL = 4  # elements of a thread that reads ahead
_THREADS = 256
_LETTERS = "abcdefgh"
_OF_DTYPE = "cos"  # formats of scalars in the compute type
_HALF = (torch.float16, torch.bfloat16)
_NARROW = (torch.uint8, torch.int8, torch.int16, torch.float16, torch.bfloat16)  # than what they are computed in


@dataclass
class Pointwise:
    """An elementwise kernel family.

    expressions: one a output, in Slang, of the inputs `a`, `b`, … (in their compute type), the scalars `s0`, `s1`, …,
    the compute type `C`, and literals K(0.1) of it. scalars: a format character each (see csrc/iterator.h). modules:
    what to import beside the library. by_type: other expressions for some compute types ("bool" is the common dtype,
    the rest what it is computed in). only: "integral" or "floating" dtypes; others raise NotImplementedError, as on
    the CPU; so do complex ones unless by_type has "Complex" or `complex` says that the expressions hold for them.
    in_double: as by_type, where the adapter has float64 and the compute type alone is too rough. in_half: a shorter
    expression of lib.rounded for common dtypes of 16 bits. like: the ATen operator whose dtypes on the CPU are the
    row's; that of the first registration, if not said. unroll: False for long functions, of which four copies in a
    kernel take drivers up to a minute to compile, and gain nothing.
    """

    name: str
    expressions: tuple[str, ...]
    inputs: int
    scalars: str = ""
    promotion: Promotion = Promotion.DEFAULT
    modules: tuple[str, ...] = ()
    by_type: dict[str, str] = field(default_factory=dict)
    in_double: dict[str, str] = field(default_factory=dict)
    in_half: str = ""
    unroll: bool = True
    only: str = ""
    complex: bool = False
    check: Check = Check.NONE
    like: str = ""

    def __post_init__(self) -> None:
        self.kernels = _C.PointwiseKernels(
            self.scalars,
            self.promotion,
            self.check,
            self.unroll,
            self._compile,
            functools.partial(self._refuse, empty=True),
        )

    def __call__(
        self,
        outputs: tuple[torch.Tensor | None, ...],
        inputs: tuple[torch.Tensor | float, ...],
        scalars: tuple[Any, ...] = (),
    ) -> list[torch.Tensor]:
        """Launch; None outputs are allocated. Errors are TensorIterator's own. Returns the outputs."""
        return self.kernels.run(outputs, inputs, scalars)

    def _compile(self, dtypes: int, common: int, shape: int, parameter_bytes: int) -> _C.Kernel:
        self._refuse(dtypes, common)
        return device.current().compiler.compile(self.name, self.source(dtypes, common, shape), parameter_bytes)

    def _refuse(self, dtypes: int, common: int, empty: bool = False) -> None:
        """Raise NotImplementedError for dtypes that the row, or the CPU, does not have."""
        compute = storage_of_code(common).compute
        if compute in COMPLEX_TYPES:
            refused = not (self.complex or "Complex" in self.by_type)
        else:
            refused = bool(self.only) and (self.only == "floating") != (compute in ("float", "double"))
        if refused:
            raise NotImplementedError(f'"{self.name}" not implemented for {storage_of_code(common).dtype}')
        if self.like:
            count, outputs = len(self.expressions) + self.inputs, len(self.expressions)
            of = [storage_of_code(dtypes >> 6 * i & 63).dtype for i in range(count)]
            refuse_as_cpu(self.like, *of[outputs:], out=tuple(of[:outputs]), empty=empty)

    def source(self, dtypes: int, common: int, shape: int) -> str:
        """The Slang source of one variant, from the three words of the planner's signature."""
        wide, vector, ahead, rank = shape & 1, shape >> 1 & 1, shape >> 2 & 1, shape >> 3 & 127
        scalar_mask, repeated = shape >> 10 & 1023, shape >> 20
        count = len(self.expressions) + self.inputs
        operands = [storage_of_code(dtypes >> 6 * i & 63) for i in range(count)]
        compute = storage_of_code(common).compute
        is_half = bool(self.in_half) and storage_of_code(common).dtype in _HALF
        expressions = (self.in_half,) if is_half else self._specialised(compute)
        arithmetic = "int" if compute == "bool" else compute
        outputs, inputs = operands[: len(expressions)], operands[len(expressions) :]
        body = _Body(self, inputs, outputs, expressions, storage_of_code(common), scalar_mask >> len(expressions))

        index, offset = ("uint64_t", "int64_t") if wide else ("uint", "int")
        fields = []
        for i, operand in enumerate(operands):
            if not scalar_mask >> i & 1:
                fields.append(f"{operand.type}* p{i};")
            elif operand.compute == "ComplexDouble":
                fields.append(f"double p{i}; double p{i}i;")
            else:
                fields.append(f"uint64_t p{i};")
        fields.append(f"{index} n;")
        fields += [f"{index} size{d};" for d in range(rank)]
        fields += [f"{offset} stride{i}_{d};" for i in range(count) for d in range(rank)]
        for i, character in enumerate(self.scalars):
            fields += _scalar_fields(character, arithmetic, i)

        lines = ["import lib.dtypes;", "import lib.casts;", "import lib.maths;"]
        modules = ("lib.rounded",) if is_half else self.modules
        lines += [f"import {m};" for m in dict.fromkeys((*modules, *(o.module for o in operands))) if m]
        lines += ["struct Params {", *(f"    {f}" for f in fields), "};", f"typealias C = {arithmetic};"]
        lines.append(f"#define K(x) x##{'lf' if arithmetic in ('double', 'ComplexDouble') else 'f'}")
        lines += [f'[shader("compute")] [numthreads({_THREADS}, 1, 1)]']
        lines += ["void run(uint3 group : SV_GroupID, uint lane : SV_GroupIndex, PARAMS p)", "{"]
        is_wide = any(o.dtype.itemsize == 8 for i, o in enumerate(operands) if not scalar_mask >> i & 1)
        width = (_VECTOR_OF_WIDE if is_wide else _VECTOR) if vector else 1
        step = 1 if rank else width  # what p.n counts is vectors where they are rows' parts
        turns = (2 if vector else _SEVERAL) if ahead else 1
        each = f"{_THREADS * step * turns} + lane * {step}"
        lines += [f"    {index} i = ({index}(group.y) * 32768 + group.x) * {each};", "    if (i >= p.n) return;"]
        pair = f"{compute}(p.s{{0}}, p.s{{0}}i)" if compute in COMPLEX_TYPES else "p.s{0}"
        for i, character in enumerate(self.scalars):
            lines.append(f"    let s{i} = {(pair if character in _OF_DTYPE else 'p.s{0}').format(i)};")
        live = [i for i in range(count) if not scalar_mask >> i & 1]
        if vector and not rank:
            lines += _contiguous(body, width, turns)
        elif ahead:
            lines += _apart(body, rank, live, index, offset)
        else:
            lines += _offsets(rank, live, index, offset)
            lines += _rows(body, width, repeated) if vector else body.element()
        lines.append("}")
        return "\n".join(lines) + "\n"

    def _specialised(self, compute: str) -> tuple[str, ...]:
        special = self.by_type.get("Complex" if compute in COMPLEX_TYPES else compute)
        if special is None and compute == "uint64_t":
            special = self.by_type.get("int64_t")
        if compute in self.in_double and device.current().adapter.features["float64"]:
            special = self.in_double[compute]
        return self.expressions if special is None else (special,)


def _scalar_fields(character: str, compute: str, i: int) -> list[str]:
    if character in _OF_DTYPE and compute in COMPLEX_TYPES:
        part = "double" if compute == "ComplexDouble" else "float"
        return [f"{part} s{i};", f"{part} s{i}i;"]
    fixed = {"f": "float", "d": "double", "i": "int", "l": "int64_t"}
    kind = compute if character in _OF_DTYPE else fixed[character]
    return [f"{kind} s{i};"]


class _Body:
    """Writes the load, compute and store statements of one element."""

    def __init__(
        self,
        row: Pointwise,
        inputs: list[Storage],
        outputs: list[Storage],
        expressions: tuple[str, ...],
        common: Storage,
        scalar_mask: int,
    ) -> None:
        self.inputs, self.outputs, self.expressions = inputs, outputs, expressions
        self.promotion, self.common, self.scalar_mask = row.promotion, common, scalar_mask
        self.compute = "int" if common.compute == "bool" else common.compute
        self.loop = "ForceUnroll" if row.unroll else "loop"

    def _as_common(self, value: str, operand: Storage) -> str:
        """`value`, in the compute type, wrapped or rounded to a common dtype that is narrower than that."""
        if operand.dtype == self.common.dtype:
            return value
        if self.common.dtype == torch.bool:
            return f"int(cast_bool({value}) ? 1 : 0)"
        if self.common.dtype not in _NARROW:
            return value
        return self.common.load.format(self.common.store.format(value))

    def loaded(self, i: int, stored: str) -> str:
        """Declaration of input `i`, of `stored`, which is what is in memory or its parameter slot."""
        operand = self.inputs[i]
        own = operand.compute
        if self.scalar_mask >> i & 1:
            slot = {"float": "asfloat(uint({}))", "double": "asdouble(uint({0}), uint({0} >> 32))"}
            slot["Complex"] = "Complex(asfloat(uint({0})), asfloat(uint({0} >> 32)))"
            slot["ComplexDouble"] = "ComplexDouble({0}, {0}i)"
            value = slot.get(own, f"{own}({{}})" if own != "bool" else "({} != 0)").format(stored)
        else:
            value = operand.load.format(stored)
        promoted = self.promotion != Promotion.NONE
        target = self.compute if promoted else own
        if target != own:
            value = f"cast_{target}({value})" if target != "bool" else f"cast_bool({value})"
        if promoted and not self.scalar_mask >> i & 1:
            value = self._as_common(value, operand)
        return f"{target} {_LETTERS[i]} = {value};"

    def stored(self, i: int) -> str:
        """Result `i` as it goes to memory."""
        value, output = f"r{i}", self.outputs[i]
        if self.promotion in (Promotion.DEFAULT, Promotion.FLOAT):
            value = self._as_common(value, output)
        return output.store.format(value)

    def statements(self, loaded: list[str], stored: list[str]) -> list[str]:
        """One element's: `loaded` is what inputs are made of, or their slots, `stored` is where outputs go."""
        lines = [self.loaded(i, value) for i, value in enumerate(loaded)]
        lines += [f"let r{i} = {expression};" for i, expression in enumerate(self.expressions)]
        lines += [f"{place} = {self.stored(i)};" for i, place in enumerate(stored)]
        return [f"    {line}" for line in lines]

    def element(self) -> list[str]:
        """Those of the element at the offsets o0, o1, …"""
        count = len(self.outputs)
        slots = [f"p.p{i + count}" if self.scalar_mask >> i & 1 else "" for i in range(len(self.inputs))]
        loaded = [slot or f"p.p{i}[o{i}]" for i, slot in enumerate(slots, count)]
        return self.statements(loaded, [f"p.p{i}[o{i}]" for i in range(count)])


def _offsets(rank: int, live: list[int], index: str, offset: str, turn: str = "") -> list[str]:
    """Statements that turn the linear index into an offset for each operand in memory. turn: the end of their names."""
    if rank == 0:
        return [f"    {offset} o{i}{turn} = {offset}(i{turn});" for i in live]
    lines = [f"    {offset} o{i}{turn} = 0;" for i in live] + [f"    {index} rest{turn} = i{turn};"]
    for d in range(rank):
        last = d == rank - 1
        lines.append(f"    {{ {index} quotient = {'0' if last else f'rest{turn} / p.size{d}'};")
        at = f"rest{turn}" if last else f"rest{turn} - quotient * p.size{d}"
        lines.append(f"      {offset} at = {offset}({at});")
        lines += [f"      o{i}{turn} += at * p.stride{i}_{d};" for i in live]
        lines.append(f"      rest{turn} = quotient; }}")
    return lines


def _apart(body: _Body, rank: int, live: list[int], index: str, offset: str) -> list[str]:
    """Several elements, a workgroup's threads apart: all loads, then all stores. Behind the end it is the last one."""
    count, lines = len(body.outputs), []
    for turn in range(_SEVERAL):
        lines.append(f"    const {index} i_{turn} = min(i + {_THREADS * turn}, p.n - 1);")
        lines += _offsets(rank, live, index, offset, f"_{turn}")
    for turn in range(_SEVERAL):
        lines += [f"    let v{i}_{turn} = p.p{i}[o{i}_{turn}];" for i in live if i >= count]
    for turn in range(_SEVERAL):
        values = [f"v{i}_{turn}" if i in live else f"p.p{i}" for i in range(count, count + len(body.inputs))]
        results = [f"p.p{i}[o{i}_{turn}]" for i in range(count)]
        lines += [f"    if (i + {_THREADS * turn} < p.n) {{", *body.statements(values, results), "    }"]
    return lines


def _vector(operand: Storage, width: int) -> str:
    return f"vector<{operand.type}, {width}>"


def _each(body: _Body, width: int, loaded: list[str], stored: list[str]) -> list[str]:
    """An element's statements for each of a vector: `stored` are vectors of outputs."""
    statements = body.statements(loaded, [f"{vector}[k]" for vector in stored])
    return [f"[{body.loop}] for (int k = 0; k < {width}; ++k) {{", *statements, "}"]


def _contiguous(body: _Body, width: int, turns: int) -> list[str]:
    """A vector for each turn, which are a workgroup's apart: all loads, then all stores.

    At the end of the tensor it goes element by element, where what lies behind is loaded as the last one is.
    """
    count = len(body.outputs)
    inputs = [(i + count, operand) for i, operand in enumerate(body.inputs) if not body.scalar_mask >> i & 1]
    starts = ["i", *(f"i + {_THREADS * width * turn}" for turn in range(1, turns))]
    some = f"[ForceUnroll] for (int k = 0; k < {width}; ++k)"
    lines = [f"const bool is_whole = {starts[-1]} + {width} <= p.n;"]
    declared = [*enumerate(body.outputs), *inputs]
    lines += [f"{_vector(o, width)} v{i}_{turn};" for turn in range(turns) for i, o in declared]
    whole, part = [], []
    for turn, start in enumerate(starts):
        for i, operand in inputs:
            whole.append(f"v{i}_{turn} = load_vector(({_vector(operand, width)}*)(p.p{i} + {start}));")
            part.append(f"v{i}_{turn}[k] = p.p{i}[min({start} + k, p.n - 1)];")
    if inputs:
        lines += ["if (is_whole) {", *whole, "}", f"else {some} {{", *part, "}"]
    for turn in range(turns):
        slots = [f"p.p{i + count}" if body.scalar_mask >> i & 1 else "" for i in range(len(body.inputs))]
        loaded = [slot or f"v{i + count}_{turn}[k]" for i, slot in enumerate(slots)]
        lines += _each(body, width, loaded, [f"v{i}_{turn}" for i in range(count)])
    whole, part = [], []
    for turn, start in enumerate(starts):
        for i, operand in enumerate(body.outputs):
            whole.append(f"store_vector(({_vector(operand, width)}*)(p.p{i} + {start}), v{i}_{turn});")
            part.append(f"if ({start} + k < p.n) p.p{i}[{start} + k] = v{i}_{turn}[k];")
    lines += ["if (is_whole) {", *whole, "}", f"else {some} {{", *part, "}"]
    return [f"    {line}" for line in lines]


def _rows(body: _Body, width: int, repeated: int) -> list[str]:
    """A vector of a row at each operand's offset, or one element where the operand has no more for the row."""
    count = len(body.outputs)
    loads, loaded = [], []
    for i, operand in enumerate(body.inputs, count):
        if body.scalar_mask >> i - count & 1:
            loaded.append(f"p.p{i}")
            continue
        vector = _vector(operand, width)
        value = f"{vector}(p.p{i}[o{i}])" if repeated >> i & 1 else f"load_vector(({vector}*)(p.p{i} + o{i}))"
        loads.append(f"const {vector} v{i} = {value};")
        loaded.append(f"v{i}[k]")
    outputs = [(i, _vector(operand, width)) for i, operand in enumerate(body.outputs)]
    lines = [*loads, *(f"{vector} v{i};" for i, vector in outputs)]
    lines += _each(body, width, loaded, [f"v{i}" for i, _ in outputs])
    lines += [f"store_vector(({vector}*)(p.p{i} + o{i}), v{i});" for i, vector in outputs]
    return [f"    {line}" for line in lines]


def register(row: Pointwise, *names: str) -> Pointwise:
    """Register `row` for ATen operators, whose calls then stay in C++; their schemas say how it is called.

    Tensors are inputs in order and numbers are scalars in order. Arguments that are written (out=, or self of an
    in-place operator) are outputs; self of an in-place operator is also an input where the row has one for it.
    """
    row.like = row.like or names[0]
    for name in names:
        if registry.reserve(name, row):
            _C.register_pointwise(name, row.kernels, *_positions(row, name))
    return row


def _positions(row: Pointwise, name: str) -> tuple[list[int], list[int], list[int]]:
    """Which arguments of the schema are the row's outputs (-1: allocated), inputs and scalars."""
    schema = registry.schema(name)
    outputs: list[int] = []
    inputs: list[int] = []
    scalars: list[int] = []
    tensors = sum("Tensor" in str(a.type) and not a.is_out for a in schema.arguments)
    for i, argument in enumerate(schema.arguments):
        written = argument.alias_info is not None and argument.alias_info.is_write
        kind = str(argument.type)
        if written:
            outputs.append(i)
        if "Tensor" in kind:
            if not argument.is_out and not (written and len(inputs) == row.inputs):
                inputs.append(i)
        elif kind == "number" and tensors < row.inputs and len(inputs) < row.inputs:
            inputs.append(i)  # a number where the row has a tensor: it takes part in promotion
        elif kind in ("number", "float", "int", "bool"):
            scalars.append(i)
    outputs = outputs or [-1] * len(schema.returns)
    if len(outputs) != len(row.expressions) or len(inputs) != row.inputs or len(scalars) != len(row.scalars):
        raise RuntimeError(f"aten::{name} does not fit the row {row.name}: {schema}")
    return outputs, inputs, scalars
