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
from torch.utils._sympy.value_ranges import ValueRanges

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
        self._gradients: list[str] = []
        self._fixed: dict[str, tuple[str, torch.dtype]] = {}
        self._texts: list[str] = []

    def text(self) -> str:
        """The function's source in Slang, behind the modules that it imports."""
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
        """`sloped`: the gradient of the score; those of what is captured, the results behind the places', are added up
        in `gradients`."""
        with self._function(f"float sloped({_SIGNATURE}, float slope)"):
            fixed = [self._score(), *self._places(), self._placeholder("slope", torch.float32)]
            result, *others = self._buffers(joint, fixed, captured)
            for scattered in others[len(_PLACES) :]:
                if scattered is not None:
                    self._gradients.append(scattered.get_name())
                    V.graph.get_buffer(scattered.get_name()).freeze_layout()
                    indexer = scattered.get_layout().make_indexer()
                    with V.set_kernel_handler(self), V.graph.set_current_device(_DEVICE):
                        scattered.data.store_output(scattered.get_name(), indexer, [])
            self.compute.writeline(f"return cast_float({self._element(result)});")

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

    def _buffers(self, module: torch.fx.GraphModule, fixed: list[TensorBox], captured: Sequence[Any]) -> list[Any]:
        """The results of a graph, of one element each."""
        with V.set_kernel_handler(self):
            results: Any = build_subgraph_module_buffer([*fixed, *captured], module)
        return list(results) if isinstance(results, (list, tuple)) else [results]

    def _element(self, buffer: ComputedBuffer) -> CSEVariable:
        with V.set_kernel_handler(self), V.graph.set_current_device(_DEVICE):
            value = buffer.data.make_loader()(())
        return value.value if isinstance(value, OpsValue) else value

    def _value(self, module: torch.fx.GraphModule, fixed: list[TensorBox], captured: Sequence[Any]) -> CSEVariable:
        """The result of a graph as this function's expression."""
        (buffer,) = self._buffers(module, fixed, captured)
        return self._element(buffer)

    # What the operators of a graph call -----------------------------------------------------------------------------

    def load(self, name: str, index: sympy.Expr) -> CSEVariable:
        """A fixed argument of the function, or an element of a captured tensor."""
        if name in self._fixed:
            text, dtype = self._fixed[name]
            bounds = ValueRanges(0, 2**31 - 1) if text in _PLACES else ValueRanges.unknown()
            return self.cse.generate(self.compute, text, dtype=dtype, bounds=bounds)
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
        """Add to the gradient of a captured tensor; NotImplementedError for any other store."""
        if mode != "atomic_add" or name not in self._gradients:
            raise NotImplementedError("flex_attention on mps: a function of the scores writes to a tensor")
        self.modules.add("lib.atomics")
        place = self.index_to_str(self.prepare_indexing(index))
        target = f"(float*)p.gradients[{self._gradients.index(name)}] + {place}"
        # Once for each score: the other backward kernel computes it, too.
        self.compute.writeline(f"if (MODE == KEYS) atomic_apply<AtomicAdd>({target}, cast_float({value}));")

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
        """An index expression in Slang."""
        return SlangPrinter().doprint(index)

    def get_index_dtype_as_torch_dtype(self) -> torch.dtype:
        """int64, in which indices are computed."""
        return torch.int64
