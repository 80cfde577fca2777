"""flex_attention's functions of one score as Slang, for kernels/attention/flex.slangh."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import sympy
import torch
from torch._inductor.codegen.common import CSEVariable, Kernel
from torch._inductor.ir import ComputedBuffer, TensorBox
from torch._inductor.kernel.flex.common import build_subgraph_module_buffer, create_placeholder
from torch._inductor.utils import IndentedBuffer
from torch._inductor.virtualized import OpsValue, V
from torch.utils._ordered_set import OrderedSet

from portable_mps.dispatch.promotion import storage
from portable_mps.inductor.kernel import TypedCSE
from portable_mps.inductor.overrides import SlangOverrides
from portable_mps.inductor.printer import SlangPrinter

_DEVICE = torch.device("mps", 0)
_PLACES = ("b", "h", "row", "column")
_SIGNATURE = "Params p, float score, int b, int h, int row, int column"


class ScoreFunctions(Kernel):
    """The text of a kernel's functions, and what they read: `captured`, tensors by their buffer's name, and `numbers`,
    sizes and other numbers of the host."""

    overrides = SlangOverrides

    def __init__(self) -> None:
        super().__init__()
        self.cse = TypedCSE(self.newvar_prefix, ";")
        self.modules: set[str] = set()
        self.captured: list[str] = []
        self.numbers: list[sympy.Expr] = []
        self._fixed: dict[str, tuple[str, torch.dtype]] = {}
        self._texts: list[str] = []

    def text(self) -> str:
        imports = [f"import {module};" for module in sorted(self.modules)]
        return "\n".join([*imports, "typealias Index = int64_t;", *self._texts])

    def add_modified(
        self, score: torch.fx.GraphModule, captured: Sequence[Any], mask: torch.fx.GraphModule, of_mask: Sequence[Any]
    ) -> None:
        """`modified`: the mask's function decides whether the score's is asked."""
        with self._function(f"float modified({_SIGNATURE})"):
            taken = self._value(mask, self._places(), of_mask)
            self.compute.writeline(f"if (!({taken})) return LOWEST;")
            result = self._value(score, [self._score(), *self._places()], captured)
            self.compute.writeline(f"return cast_float({result});")

    def add_sloped(self, joint: torch.fx.GraphModule, captured: Sequence[Any]) -> None:
        """`sloped`: the first result of the score's function and its gradient in one."""
        with self._function(f"float sloped({_SIGNATURE}, float slope)"):
            slope = self._placeholder("slope", torch.float32)
            result = self._value(joint, [self._score(), *self._places(), slope], captured)
            self.compute.writeline(f"return cast_float({result});")

    @contextlib.contextmanager
    def _function(self, signature: str) -> Iterator[None]:
        body = IndentedBuffer()
        self.cse.invalidate(OrderedSet())
        with self, self.swap_buffers(body), body.indent():
            yield
        self._texts.append(f"{signature}\n{{\n{body.getvalue()}}}")

    def _placeholder(self, text: str, dtype: torch.dtype) -> TensorBox:
        name = f"flex_{text}"
        self._fixed[name] = (text, dtype)
        return create_placeholder(name, dtype, _DEVICE)

    def _score(self) -> TensorBox:
        return self._placeholder("score", torch.float32)

    def _places(self) -> list[TensorBox]:
        return [self._placeholder(name, torch.int32) for name in _PLACES]

    def _value(self, module: torch.fx.GraphModule, fixed: list[TensorBox], buffers: Sequence[Any]) -> CSEVariable:
        """The first result of a graph as this function's expression."""
        with V.set_kernel_handler(self):
            results = build_subgraph_module_buffer([*fixed, *buffers], module)
            buffer = results[0] if isinstance(results, (list, tuple)) else results
            assert isinstance(buffer, ComputedBuffer)
            with V.graph.set_current_device(_DEVICE):
                value = buffer.data.make_loader()(())
        return value.value if isinstance(value, OpsValue) else value

    # What the operators of a graph call -----------------------------------------------------------------------------

    def load(self, name: str, index: sympy.Expr) -> CSEVariable:
        if name in self._fixed:
            text, dtype = self._fixed[name]
            return self.cse.generate(self.compute, text, dtype=dtype)
        dtype = V.graph.get_dtype(name)
        row = storage(dtype, float8=True)
        if row.module:
            self.modules.add(row.module)
        if name not in self.captured:
            self.captured.append(name)
        place = self.index_to_str(self.prepare_indexing(index))
        element = f"(({row.type}*)p.captured[{self.captured.index(name)}])[{place}]"
        return self.cse.generate(self.compute, row.load.format(element), dtype=dtype)

    def store(self, name: str, index: sympy.Expr, value: CSEVariable, mode: Any = None) -> None:
        raise NotImplementedError("flex_attention on mps: a function of the scores writes to a tensor")

    def check_bounds(self, expr: sympy.Expr, size: sympy.Expr, lower: bool, upper: bool) -> None:
        """Reports an index out of range, and reads the first place instead."""
        index = str(expr)
        limit = self.index_to_str(self.prepare_indexing(size))
        tests = [f"{index} < 0"] if lower else []
        tests += [f"{index} >= {limit}"] if upper else []
        if tests:
            report = f"report_error(p.error, p.code, 0u, int64_t({index})); {index} = 0;"
            self.compute.writeline(f"if ({' || '.join(tests)}) {{ {report} }}")

    def prepare_indexing(self, index: sympy.Expr) -> sympy.Expr:
        """Sizes and other numbers of the host become parameters."""
        given = sorted((s for s in index.free_symbols if not str(s).startswith("tmp")), key=str)
        for symbol in given:
            if symbol not in self.numbers:
                self.numbers.append(symbol)
        return index.subs({s: sympy.Symbol(f"p.numbers[{self.numbers.index(s)}]", integer=True) for s in given})

    def index_to_str(self, index: sympy.Expr) -> str:
        return SlangPrinter().doprint(index)

    def get_index_dtype_as_torch_dtype(self) -> torch.dtype:
        return torch.int64
