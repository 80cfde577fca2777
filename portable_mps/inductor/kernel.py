"""A fused kernel in Slang: Inductor's operators written as statements of one thread.

A pointwise kernel has a thread an element, or a tile of 16 x 16 elements a workgroup where reads and writes run along
different dimensions. A reduction has rows; several threads share a row (kernels/place.slangh), in stages: statements
for each element of a row, with the states of reductions, then those states merged over the threads, then statements
for the row alone. Rows that are short enough stay in registers between stages (Inductor's persistent reductions);
longer ones are read again.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sympy
import torch
from torch._inductor.codegen.common import (
    CSE,
    CSEVariable,
    DeferredLine,
    PythonPrinter,
    SizeArg,
    TensorArg,
)
from torch._inductor.codegen.simd import IterationRangesEntry, IterationRangesRoot, SIMDKernel
from torch._inductor.codegen.triton_utils import should_unwrap_unspec_arg
from torch._inductor.runtime.hints import ReductionHint
from torch._inductor.utils import IndentedBuffer, prefix_is_reduction, sympy_product
from torch._inductor.virtualized import V
from torch.utils._ordered_set import OrderedSet

from portable_mps.dispatch import atomics
from portable_mps.dispatch.launch import GROUP_ROW
from portable_mps.dispatch.promotion import storage
from portable_mps.inductor.overrides import SlangOverrides, compute_type, rounded_through
from portable_mps.inductor.printer import SlangPrinter
from portable_mps.inductor.reductions import THREADS, Geometry, State, geometry, state_of
from portable_mps.inductor.vectors import WIDTH, Vectors
from portable_mps.runtime import device

_MOST = 2**31 - 2**13  # elements below which no thread's place overflows 32 bits
_TILE = 16  # elements of a tile's side
_NARROW = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32)  # than what they are computed in
_DEFINITION = re.compile(r"^\s*(\w+) (tmp\d+) = ", re.MULTILINE)
_IN_BOUNDS = "in_bounds"  # whether all indices of this thread's element have been


def _elements_ahead() -> int:
    """Elements of a row that a thread reads before it computes with them; a software driver gains nothing."""
    return 1 if device.current().adapter.is_software else 4


class TypedCSE(CSE):
    """Common subexpressions as declarations with types, integers wrapped to their dtype."""

    def generate(self, buffer: IndentedBuffer, expr: Any, **options: Any) -> CSEVariable:
        """A variable for `expr`, declared with the type of its dtype; narrow dtypes are rounded to what they hold."""
        dtype = options.get("dtype")
        if isinstance(dtype, torch.dtype):
            self.prefix = f"{compute_type(dtype)} "
            if isinstance(expr, str) and dtype in _NARROW and not self.contains(expr):
                wrapped = rounded_through(f"({expr})", dtype)
                var = super().generate(buffer, wrapped, **options)
                self.put(expr, var)
                return var
        else:
            self.prefix = "let "
        return super().generate(buffer, expr, **options)


@dataclass
class _Stage:
    """Statements: for each element of a row, or (where `of_row`) for the row alone; and those before and behind.

    reads: what is read for each element, where a thread reads several before it computes with them.
    """

    of_row: bool
    reads: IndentedBuffer = field(default_factory=IndentedBuffer)
    before: IndentedBuffer = field(default_factory=IndentedBuffer)
    body: IndentedBuffer = field(default_factory=IndentedBuffer)
    behind: IndentedBuffer = field(default_factory=IndentedBuffer)


class SlangKernel(SIMDKernel):
    """See the module's docstring; the methods are those that Inductor's scheduler calls."""

    overrides = SlangOverrides
    suffix = ";"
    kexpr = staticmethod(SlangPrinter().doprint)
    sexpr = kexpr
    pexpr = staticmethod(PythonPrinter().doprint)

    def __init__(self, tiling: dict[str, sympy.Expr], **options: Any) -> None:
        self._geometry: Geometry | None = None
        self._is_reduction = bool(options["features"].is_reduction())
        super().__init__(tiling, **options)
        if math.prod(numel for numel in self.numels.values() if isinstance(numel, sympy.Integer)) > _MOST:
            self._index_dtype = torch.int64
        self.cse = TypedCSE(self.newvar_prefix, self.suffix)
        self.modules: set[str] = set()
        self._header: dict[str, None] = {}
        self._places: dict[str, str] = {}  # of ranges of the reduced dimension, and their texts
        self._row_variables: OrderedSet[CSEVariable] = OrderedSet()
        self._states = itertools.count()
        self._messages: list[tuple[str, str]] = []  # what goes wrong on the device: an exception's name, its text
        self._ahead = _elements_ahead()
        self._stages: list[_Stage] = []
        self._begin(of_row=False)
        self._vectors = Vectors(self) if Vectors.fit(self) else None

    # Ranges -------------------------------------------------------------------------------------------------------

    def should_use_persistent_reduction(self) -> bool:
        """Whether a reduction's rows are short enough to stay in registers between its stages."""
        if not self._is_reduction:
            return False
        reduced = [prefix for prefix in self.numels if prefix.startswith("r")]
        if reduced != ["r0_"]:
            raise NotImplementedError("torch.compile on mps has no reductions over tiles of two dimensions")
        length = V.graph.sizevars.simplify(self.numels["r0_"])
        hint = V.graph.sizevars.optimization_hint
        rows = hint(sympy_product(numel for prefix, numel in self.numels.items() if prefix not in reduced))
        is_outer = self.features.get_reduction_hint() in (ReductionHint.OUTER, ReductionHint.OUTER_TINY)
        self._geometry = geometry(rows, hint(length), is_outer, isinstance(length, sympy.Integer))
        return self._geometry.kept > 0

    def dtype_to_str(self, dtype: torch.dtype) -> str:
        """The Slang type that a dtype is computed in."""
        return compute_type(dtype)

    def codegen_iteration_ranges_entry(self, entry: IterationRangesEntry) -> None:
        """Write the definition of an index; those of a reduction are kept for its loops."""
        text = f"const Index {entry.name} = {self.kexpr(self.rename_indexing(entry.expr))};"
        if prefix_is_reduction(entry.prefix):
            self._places[entry.name] = text
        else:
            self.indexing_code.writeline(text)

    # Stages -------------------------------------------------------------------------------------------------------

    def _begin(self, of_row: bool) -> None:
        stage = _Stage(of_row)
        self._stages.append(stage)
        self.loads = self.compute = self.stores = stage.body
        if not of_row and self._is_reduction and not self.persistent_reduction and self._ahead > 1:
            self.loads = stage.reads

    def _forget_elements(self) -> None:
        """What was computed of an element of a row that is not kept must be computed again."""
        if self.inside_reduction and not self.persistent_reduction:
            self.cse.invalidate(self._row_variables)

    @contextlib.contextmanager
    def disable_reduction(self) -> Iterator[None]:
        """A context in which statements are those of an element of the result, behind the reduction before it."""
        if not self._is_reduction:
            yield
            return
        self._forget_elements()
        self._begin(of_row=True)
        self.inside_reduction = False
        try:
            yield
        finally:
            self.inside_reduction = True
            self._begin(of_row=False)

    def codegen_body(self) -> None:
        """Nothing: stages are put together at the end."""

    def create_cse_var(self, *args: Any, **kwargs: Any) -> CSEVariable:
        """A variable, noted where it belongs to a row."""
        var = super().create_cse_var(*args, **kwargs)
        if self._stages[-1].of_row:
            self._row_variables.add(var)
        return var

    # Memory -------------------------------------------------------------------------------------------------------

    def _vectors_now(self) -> Vectors | None:
        """None within a condition."""
        return self._vectors if self.loads is self._stages[-1].body else None

    def load(self, name: str, index: sympy.Expr) -> CSEVariable:
        """A variable with an element of a buffer, in its compute type."""
        pointer, dtype = self.args.input(name), V.graph.get_dtype(name)
        if should_unwrap_unspec_arg(name):  # a number of the host
            dtype, _ = _passed_as(dtype)
            return self.cse.generate(self.loads, f"p.{pointer}", dtype=dtype)
        row = self._storage(dtype)
        is_indirect = any(str(symbol).startswith("tmp") for symbol in index.free_symbols)
        index = self.prepare_indexing(index)
        vectors = self._vectors_now()
        together = vectors and vectors.read(name, pointer, index, row)
        value = row.load.format(together or f"p.{pointer}[{self.index_to_str(index)}]")
        if is_indirect and self._messages:
            value = f"{_IN_BOUNDS} ? {value} : {row.compute}(0)"
        return self.cse.generate(self.loads, value, dtype=dtype)

    def store(self, name: str, index: sympy.Expr, value: CSEVariable, mode: Any = None) -> None:
        """Write an element of a buffer; `mode` "atomic_add" adds instead."""
        pointer, row = self.args.output(name), self._storage(V.graph.get_dtype(name))
        index = self.prepare_indexing(index)
        where = self.index_to_str(index)
        if mode is None:
            vectors = self._vectors_now()
            together = vectors and vectors.write(name, pointer, index, row)
            line = f"{together or f'p.{pointer}[{where}]'} = {row.store.format(value)};"
        elif mode == "atomic_add":
            atomics.require("A graph's scatter with additions", V.graph.get_dtype(name))
            self.modules.add("lib.atomics")
            line = f"atomic_apply<AtomicAdd>(p.{pointer} + {where}, cast_{row.compute}({value}));"
        else:
            raise NotImplementedError(f"torch.compile on mps has no stores of mode {mode}")
        self.stores.writeline(DeferredLine(name, f"STORE({line})"))

    def store_reduction(self, name: str, index: sympy.Expr, value: CSEVariable) -> None:
        """Write the result of a row."""
        pointer, row = self.args.output(name), self._storage(V.graph.get_dtype(name))
        where = self.index_to_str(self.prepare_indexing(index))
        line = f"STORE_ROW(p.{pointer}[{where}] = {row.store.format(value)};)"
        self._stages[-1].behind.writeline(DeferredLine(name, line))

    def _storage(self, dtype: torch.dtype) -> Any:
        row = storage(dtype, float8=True)
        if row.module:
            self.modules.add(row.module)
        return row

    def check_bounds(self, expr: sympy.Expr, size: sympy.Expr, lower: bool, upper: bool) -> None:
        """Have an index that lies outside [0, size) reported, and the access left out."""
        if not (lower or upper):
            return
        # An index that was read from a tensor is looked at in its own width.
        is_read = isinstance(expr, sympy.Symbol) and expr.name.startswith("tmp")
        index = expr.name if is_read else self.index_to_str(self.prepare_indexing(expr))
        limit = self.index_to_str(size)
        tests = [f"{index} < 0"] if lower else []
        tests += [f"{index} >= {limit}"] if upper else []
        code = self._message("IndexError", "index {index} is out of bounds for a dimension of size " + self.pexpr(size))
        self.compute.writeline(f"if ({' || '.join(tests)})")
        self.compute.writeline("{")
        with self.compute.indent():
            self.compute.writeline(f"report_error(p.error, {code}, 0u, int64_t({index}));")
            self.compute.writeline(f"{_IN_BOUNDS} = false;")
            if is_read:
                self.compute.writeline(f"{index} = 0;")
        self.compute.writeline("}")

    def device_assert_async(self, cond: CSEVariable, msg: str) -> None:
        """Have RuntimeError with `msg` raised at the next synchronisation where `cond` is false."""
        code = self._message("RuntimeError", msg.replace("{", "{{").replace("}", "}}"))
        self.compute.writeline(f"if (!{cond}) report_error(p.error, {code}, 0u, 0);")

    def _message(self, kind: str, text: str) -> str:
        """The parameter with the code of an error."""
        message = (kind, text)
        if message not in self._messages:
            self._messages.append(message)
        return f"p.code{self._messages.index(message)}"

    # Reductions ---------------------------------------------------------------------------------------------------

    def reduction(self, dtype: torch.dtype, src_dtype: torch.dtype, reduction_type: Any, value: Any) -> Any:
        """The results of reducing a value over a row; of equal ones, those that are there."""
        if self.persistent_reduction and reduction_type == "welford_reduce":
            return self.welford_reduce_fallback(dtype, value)  # in two passes, which cost nothing in registers
        key = (src_dtype, reduction_type, value)
        if key not in self.cse.reduction_cache:
            self.cse.reduction_cache[key] = self._reduced(state_of(reduction_type, dtype, src_dtype), value)
        return self.cse.reduction_cache[key]

    def _reduced(self, state: State, value: Any) -> Any:
        self._header.update(dict.fromkeys(state.header()))
        stage, name = self._stages[-1], f"state{next(self._states)}"
        values = value if isinstance(value, tuple) else (value,)
        if state.element in ("float", "double"):  # numbers of the host bring theirs
            values = tuple(
                v if compute_type(v.dtype) == state.element else f"cast_{state.element}({v})" for v in values
            )
        texts = dict(zip(("v", "v1", "v2"), values, strict=False))
        stage.before.writeline(f"{state.kind} {name} = {state.identity};")
        stage.body.writeline(f"{name} = {state.step.format(s=name, i='r0_index', **texts)};")
        stage.behind.writeline(f"{name} = {state.group_merge}({name}, place, lane);")
        results = []
        for text, dtype in state.results:
            var = self.cse.newvar(dtype=dtype)
            self._row_variables.add(var)
            stage.behind.writeline(f"{compute_type(dtype)} {var} = cast_{compute_type(dtype)}({text.format(s=name)});")
            results.append(var)
        if self.persistent_reduction:
            self._begin(of_row=False)
        return tuple(results) if len(results) > 1 else results[0]

    # Text ---------------------------------------------------------------------------------------------------------

    def codegen_kernel(self, name: str | None = None) -> str:
        """The source: definitions, parameters, and one thread's statements."""
        modules = ("lib.dtypes", "lib.casts", "lib.maths", *sorted(self.modules))
        if self._messages:
            modules = (*modules, "lib.indexing")
        statements = self._row_statements() if self._is_reduction else self._element_statements()
        lines = [f"import {module};" for module in modules]
        is_wide = self.get_index_dtype_as_torch_dtype() == torch.int64
        lines += [f"typealias Index = {self.index_dtype};", f"typealias Count = {'uint64_t' if is_wide else 'uint'};"]
        if self._is_reduction:
            lines.append('#include "place.slangh"')
        lines += self._header
        fields = [f"{parameter.kind} {parameter.name};" for parameter in self._parameters()]
        fields += [f"int64_t {tree.prefix}numel;" for tree in self._dynamic_trees()]
        if self._messages:
            fields += ["ErrorWord* error;", *(f"uint code{i};" for i in range(len(self._messages)))]
        lines += ["", "struct Params", "{", *(f"    {field}" for field in fields), "};", ""]
        lines += [f'[shader("compute")] [numthreads({THREADS}, 1, 1)]']
        lines += ["void run(uint3 group : SV_GroupID, uint lane : SV_GroupIndex, PARAMS p)", "{"]
        lines += [f"    {line}" if line else "" for line in statements.getvalue().splitlines()]
        lines.append("}")
        return "\n".join(lines) + "\n"

    def _parameters(self) -> list[_Parameter]:
        """In the order of the struct and of the call: tensors, then numbers."""
        tensors, numbers = [], []
        _, call_args, arguments, _ = self.args.python_argdefs()
        for call, argument in zip(call_args, arguments, strict=True):
            if isinstance(argument, TensorArg) and should_unwrap_unspec_arg(argument.buffer):
                dtype, character = _passed_as(argument.dtype)
                numbers.append(_Parameter(compute_type(dtype), argument.name, character, f"{call}.item()"))
            elif isinstance(argument, TensorArg):
                kind = f"{self._storage(argument.dtype).type}*"
                tensors.append(_Parameter(kind, argument.name, "Q", str(call)))
            elif isinstance(argument, SizeArg):
                kind, character = ("int64_t", "q") if argument.expr.is_integer else ("float", "f")
                numbers.append(_Parameter(kind, argument.name, character, str(call), is_size=True))
            else:
                raise NotImplementedError(f"torch.compile on mps passes no {type(argument).__name__} to kernels")
        return tensors + numbers

    def _dynamic_trees(self) -> list[IterationRangesRoot]:
        trees = self.range_trees if self._is_reduction else self._kept_trees()
        return [tree for tree in trees if not isinstance(tree.numel, sympy.Integer)]

    def _kept_trees(self) -> list[IterationRangesRoot]:
        """Of dimensions that are not reduced, the innermost last."""
        return [tree for tree in self.range_trees if not prefix_is_reduction(tree.prefix)]

    def _numel(self, tree: IterationRangesRoot) -> str:
        return str(tree.numel) if isinstance(tree.numel, sympy.Integer) else f"{tree.prefix}numel"

    def _prologue(self, code: IndentedBuffer) -> None:
        """Sizes as indices."""
        for parameter in self._parameters():
            if parameter.is_size:
                kind = "Index" if parameter.kind == "int64_t" else parameter.kind
                code.writeline(f"const {kind} {parameter.name} = {kind}(p.{parameter.name});")
        for tree in self._dynamic_trees():
            code.writeline(f"const Index {tree.prefix}numel = Index(p.{tree.prefix}numel);")
        code.writeline(f"const Index workgroup = Index(group.y) * {GROUP_ROW} + Index(group.x);")
        if self._messages:
            code.writeline(f"bool {_IN_BOUNDS} = true;")

    def _element_statements(self) -> IndentedBuffer:
        code = IndentedBuffer()
        self._prologue(code)
        trees = self._kept_trees()
        bodies = [self._guarded(stage.body.getvalue(), "", "") for stage in self._stages]
        if self._vectors is not None:
            code.splice(self._vectors.code(bodies, self.indexing_code, trees[0]))
            return code
        if len(trees) == 1:
            (tree,) = trees
            code.writeline(f"const Index {tree.name} = workgroup * {THREADS} + Index(lane);")
            code.writeline(f"if (Count({tree.name}) >= Count({self._numel(tree)})) return;")
        elif trees:
            x, y, *rest = reversed(trees)  # the innermost is last
            code.writeline(f"const Index columns = ({self._numel(x)} + {_TILE - 1}) / {_TILE};")
            code.writeline(f"const Index lines = ({self._numel(y)} + {_TILE - 1}) / {_TILE};")
            code.writeline(f"const Index {x.name} = workgroup % columns * {_TILE} + Index(lane % {_TILE});")
            code.writeline(f"const Index {y.name} = workgroup / columns % lines * {_TILE} + Index(lane / {_TILE});")
            for tree in rest:
                code.writeline(f"const Index {tree.name} = workgroup / (columns * lines);")
            code.writeline(f"if ({x.name} >= {self._numel(x)} || {y.name} >= {self._numel(y)}) return;")
        code.splice(self.indexing_code)
        for body in bodies:
            code.splice(body)
        return code

    def _row_statements(self) -> IndentedBuffer:
        assert self._geometry is not None
        code = IndentedBuffer()
        self._prologue(code)
        rows, reduced = self._kept_trees(), self.range_trees[-1]
        width = self._geometry.width
        code.writeline(f"const Place place = place_of({self._geometry.code}, lane);")
        total = " * ".join(self._numel(tree) for tree in rows) or "1"
        code.writeline(f"const Index row = workgroup * {width} + Index(place.x);")
        code.writeline(f"const bool is_row = Count(row) < Count({total});")
        # Threads past the last row take it once more, and store nothing: all must meet at the barriers.
        code.writeline(f"{'Index' if rows else 'const Index'} rest = is_row ? row : {total} - 1;")
        for tree in reversed(rows):
            code.writeline(f"const Index {tree.name} = rest % {self._numel(tree)};")
            code.writeline(f"rest = rest / {self._numel(tree)};")
        code.splice(self.indexing_code)
        crossing = self._crossing() if self.persistent_reduction else {}
        for name, (kind, _) in crossing.items():
            code.writeline(f"{kind} kept_{name}[{self._geometry.kept}] = {{}};")  # some threads have no element
        declared: set[str] = set()
        for number, stage in enumerate(self._stages):
            body = stage.body.getvalue()
            if stage.of_row:
                code.splice(_first_kept(body, 2 * number, crossing, declared))
                code.splice(self._guarded(self._behind_reads(body), "is_row && place.y == 0u", ""))
                continue
            code.splice(stage.before)
            if body.strip():
                self._loop(code, reduced, stage.reads.getvalue(), body, number, crossing)
            behind = stage.behind.getvalue()
            code.splice(_first_kept(behind, 2 * number + 1, crossing, declared))
            code.splice(self._guarded(self._behind_reads(behind), "is_row", "is_row && place.y == 0u"))
        return code

    def _behind_reads(self, text: str) -> str:
        """A row's statements, with a barrier where one thread writes what all threads of the row may have read."""
        assert self._geometry is not None
        changes = bool(self.args.inplace_buffers) or bool(self.mutations)
        if self._geometry.height == 1 or not changes or "STORE" not in text:
            return text
        lines = text.splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith("STORE"))
        return "\n".join([*lines[:first], "AllMemoryBarrierWithGroupSync();", *lines[first:]])

    def _loop(
        self,
        code: IndentedBuffer,
        reduced: IterationRangesRoot,
        reads: str,
        body: str,
        number: int,
        crossing: dict[str, tuple[str, int]],
    ) -> None:
        """The statements for the elements of a thread, `number` of the stages."""
        assert self._geometry is not None
        length, height, kept = self._numel(reduced), self._geometry.height, self._geometry.kept
        name, body = reduced.name, self._guarded(body, "is_row", "")
        if kept:
            before = [
                f"{kind} {var} = kept_{var}[k];"
                for var, (kind, first) in crossing.items()
                if first < 2 * number and re.search(rf"\b{var}\b", body)
            ]
            behind = [f"kept_{var}[k] = {var};" for var, (_, first) in crossing.items() if first == 2 * number]
            self._unrolled(code, reduced, kept, "Index(place.y)", [*before, *body.splitlines(), *behind])
        elif not reads.strip():
            code.writeline(f"for (Index {name} = Index(place.y); {name} < {length}; {name} += {height})")
            code.writelines(["{", *(f"    {line}" for line in (*self._places.values(), *body.splitlines())), "}"])
        else:
            ahead = self._ahead
            code.writeline(f"for (Index start = Index(place.y); start < {length}; start += {height * ahead})")
            code.writeline("{")
            with code.indent():
                known = _DEFINITION.findall(reads)
                code.writelines([f"{kind} read_{var}[{ahead}];" for kind, var in known])
                filled = [f"read_{var}[k] = {var};" for _, var in known]
                self._unrolled(code, reduced, ahead, "start", [*reads.splitlines(), *filled])
                taken = [f"{kind} {var} = read_{var}[k];" for kind, var in known]
                self._unrolled(code, reduced, ahead, "start", [*taken, *body.splitlines()])
            code.writeline("}")

    def _unrolled(
        self, code: IndentedBuffer, reduced: IterationRangesRoot, times: int, start: str, statements: list[str]
    ) -> None:
        """The statements for `times` elements, as far apart as the threads of a row are many."""
        assert self._geometry is not None
        code.writeline(f"[ForceUnroll] for (uint k = 0u; k < {times}u; ++k)")
        code.writeline("{")
        with code.indent():
            code.writeline(f"const Index {reduced.name} = {start} + Index(k) * {self._geometry.height};")
            code.writeline(f"if ({reduced.name} < {self._numel(reduced)})")
            lines = (*self._places.values(), *statements)
            code.writelines(["{", *(f"    {line}" for line in lines), "}"])
        code.writeline("}")

    def _crossing(self) -> dict[str, tuple[str, int]]:
        """Variables of elements that are used outside their own loop: their types, and twice their stage's number."""
        texts = [text for stage in self._stages for text in (stage.body.getvalue(), stage.behind.getvalue())]
        crossing = {}
        for place in range(0, len(texts), 2):
            if self._stages[place // 2].of_row:
                continue
            for kind, name in _DEFINITION.findall(texts[place]):
                if any(re.search(rf"\b{name}\b", text) for text in texts[place + 1 :]):
                    crossing[name] = (kind, place)
        return crossing

    def _guarded(self, text: str, stores: str, row_stores: str) -> str:
        """The text with its stores under their conditions."""
        checks = [_IN_BOUNDS] if self._messages else []

        def store(conditions: str, statement: str) -> str:
            tests = [test for test in (conditions, *checks) if test]
            return f"if ({' && '.join(tests)}) {statement}" if tests else statement

        text = re.sub(r"STORE_ROW\((.*)\)$", lambda found: store(row_stores, found[1]), text, flags=re.MULTILINE)
        return re.sub(r"STORE\((.*)\)$", lambda found: store(stores, found[1]), text, flags=re.MULTILINE)

    # Launch -------------------------------------------------------------------------------------------------------

    def call_kernel(self, name: str, node: Any = None, deallocate_ws: bool = True) -> None:
        """Write the call of this kernel into the wrapper of the graph."""
        wrapper = V.graph.wrapper_code
        arguments = [parameter.argument for parameter in self._parameters()]
        for tree in self._dynamic_trees():
            is_symbol = isinstance(tree.numel, sympy.Symbol)
            arguments.append(str(tree.numel if is_symbol else wrapper.generate_numel_expr(name, tree).inner))
        arguments += [self._workgroups(), self._turns()]
        wrapper.generate_kernel_call(name, arguments, device=V.graph.get_current_device_or_throw(), triton=False)

    def _workgroups(self) -> str:
        """How many, as an expression of the wrapper."""
        trees = self._kept_trees()
        total = sympy_product(tree.numel for tree in trees)
        if self._geometry is not None:
            return self._quotient(total, self._geometry.width)
        if len(trees) <= 1:
            return self._quotient(total, THREADS * (1 if self._vectors is None else WIDTH))
        x, y, *rest = reversed(trees)
        count = " * ".join((self._quotient(x.numel, _TILE), self._quotient(y.numel, _TILE)))
        return " * ".join((count, *(f"({self.pexpr(V.graph.sizevars.simplify(tree.numel))})" for tree in rest)))

    def _turns(self) -> str:
        """Of a thread through its loop, 0 where it has none."""
        if self._geometry is None or self._geometry.kept:
            return "0"
        return self._quotient(self.range_trees[-1].numel, self._geometry.height)

    def _quotient(self, numel: sympy.Expr, divisor: int) -> str:
        numel = V.graph.sizevars.simplify(numel)
        if isinstance(numel, sympy.Integer):
            return str(-(-int(numel) // divisor))
        return f"((({self.pexpr(numel)}) + {divisor - 1}) // {divisor})"

    def constants_of_launch(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """For launch.graph_kernel: which tensors are written, what numbers follow them, and the errors' messages."""
        written = {inner for inner in self.args.output_buffers.values() if isinstance(inner, str)}
        written |= {b.inner_name for b in self.args.inplace_buffers.values() if hasattr(b, "inner_name")}
        parameters = self._parameters()
        access = "".join("w" if p.name in written else "r" for p in parameters if p.character == "Q")
        numbers = "".join(p.character for p in parameters if p.character != "Q") + "q" * len(self._dynamic_trees())
        return access, numbers, tuple(self._messages)


class _Parameter(NamedTuple):
    """A field of the kernel's struct, and what the wrapper passes for it."""

    kind: str
    name: str
    character: str  # as in `struct`
    argument: str
    is_size: bool = False


def _passed_as(dtype: torch.dtype) -> tuple[torch.dtype, str]:
    """What a number of the host is in a kernel, and how it is packed."""
    if not dtype.is_floating_point:
        return torch.int64, "q"
    return (torch.float64, "d") if device.current().adapter.features["float64"] else (torch.float32, "f")


def _first_kept(text: str, place: int, crossing: dict[str, tuple[str, int]], declared: set[str]) -> str:
    """Declarations, for statements of a row, of what was computed of its first element and is not declared yet."""
    needed = [
        name
        for name, (_, first) in crossing.items()
        if first < place and name not in declared and re.search(rf"\b{name}\b", text)
    ]
    declared.update(needed)
    return "\n".join(f"{crossing[name][0]} {name} = kept_{name}[0];" for name in needed)
