"""Pointwise kernels of several neighbouring elements a thread, read and written as one word of memory each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sympy
from torch._inductor.codegen.common import DeferredLine, TensorArg
from torch._inductor.codegen.triton_utils import is_unaligned_buffer
from torch._inductor.utils import IndentedBuffer, prefix_is_reduction
from torch._inductor.virtualized import V

from portable_mps.dispatch.promotion import Storage
from portable_mps.inductor.reductions import THREADS

if TYPE_CHECKING:
    from portable_mps.inductor.kernel import SlangKernel

WIDTH = 4  # elements of a thread
_FEWEST = 1024  # elements of a kernel from which they are taken together
_LARGEST = 4  # bytes of an element: Inductor's tensors are aligned to 16 bytes


class Vectors:
    """What a kernel reads and writes of WIDTH elements, the first of which is a multiple of WIDTH in all its ranges."""

    def __init__(self, kernel: SlangKernel) -> None:
        self._kernel = kernel
        self._reads: dict[tuple[str, str], tuple[str, str]] = {}  # pointer and place: vector and type
        self._writes: list[tuple[str, str, str, str]] = []  # buffer, pointer, place, type

    @staticmethod
    def fit(kernel: SlangKernel) -> bool:
        """Whether the kernel is one long range, of a known length, whose stores depend on no check."""
        trees = [tree for tree in kernel.range_trees if not prefix_is_reduction(tree.prefix)]
        if kernel.inside_reduction or len(trees) != 1 or not isinstance(trees[0].numel, sympy.Integer):
            return False
        count = int(trees[0].numel)
        bodies = (getattr(node, "_body", None) for node in kernel.features.scheduler_nodes())
        return count % WIDTH == 0 and count >= _FEWEST and not any(body and body.indirect_vars for body in bodies)

    def read(self, name: str, pointer: str, index: sympy.Expr, row: Storage) -> str | None:
        """The element in a vector that is read before; None where neighbours do not lie together."""
        if not self._is_together(name, index, row):
            return None
        place = self._kernel.index_to_str(index)
        vector, _ = self._reads.setdefault((pointer, place), (f"read{len(self._reads)}", row.type))
        return f"{vector}[k]"

    def write(self, name: str, pointer: str, index: sympy.Expr, row: Storage) -> str | None:
        """The element in a vector that is written behind."""
        if not self._is_together(name, index, row):
            return None
        self._writes.append((name, pointer, self._kernel.index_to_str(index), row.type))
        return f"written{len(self._writes) - 1}[k]"

    def _is_together(self, name: str, index: sympy.Expr, row: Storage) -> bool:
        dtype = V.graph.get_dtype(name)
        if dtype.itemsize > _LARGEST or is_unaligned_buffer(TensorArg(name, name, dtype)):
            return False
        terms = sympy.expand(index).as_coefficients_dict()
        inner = 0
        for term, factor in terms.items():
            known = self._kernel.range_tree_nodes
            if not all(symbol in known for symbol in term.free_symbols):
                return False
            ranges = [known[symbol] for symbol in term.free_symbols]
            if any(entry.divisor % WIDTH != 0 for entry in ranges):
                # Of the innermost range, as it stands, and no shorter than a vector.
                (entry, *others) = ranges
                if others or term != entry.symbol() or entry.divisor != 1 or entry.length % WIDTH or factor != 1:
                    return False
                inner += 1
            elif factor % WIDTH != 0:
                return False
        return inner == 1

    def code(self, bodies: list[str], ranges: IndentedBuffer, tree: Any) -> IndentedBuffer:
        """The statements of a thread around those of an element."""
        code = IndentedBuffer()
        code.writeline(f"const Index first = (workgroup * {THREADS} + Index(lane)) * {WIDTH};")
        code.writeline(f"if (Count(first) >= Count({tree.numel})) return;")
        code.writelines([f"vector<{kind}, {WIDTH}> {vector};" for vector, kind in self._reads.values()])
        code.writelines([f"vector<{kind}, {WIDTH}> written{i};" for i, (_, _, _, kind) in enumerate(self._writes)])
        reads = IndentedBuffer()
        for (pointer, place), (vector, kind) in self._reads.items():
            reads.writeline(f"{vector} = load_vector((vector<{kind}, {WIDTH}>*)(p.{pointer} + ({place})));")
        self._scope(code, "", tree.name, "first", ranges, reads)
        element = IndentedBuffer()
        for body in bodies:
            element.splice(body)
        self._scope(
            code, f"[ForceUnroll] for (uint k = 0u; k < {WIDTH}u; ++k)", tree.name, "first + Index(k)", ranges, element
        )
        writes = IndentedBuffer()
        for i, (name, pointer, place, kind) in enumerate(self._writes):
            line = f"store_vector((vector<{kind}, {WIDTH}>*)(p.{pointer} + ({place})), written{i});"
            writes.writeline(DeferredLine(name, line))
        self._scope(code, "", tree.name, "first", ranges, writes)
        return code

    @staticmethod
    def _scope(
        code: IndentedBuffer, head: str, name: str, value: str, ranges: IndentedBuffer, body: IndentedBuffer
    ) -> None:
        if not body.getvalue().strip():
            return
        if head:
            code.writeline(head)
        code.writeline("{")
        with code.indent():
            code.writeline(f"const Index {name} = {value};")
            code.splice(ranges)
            code.splice(body)
        code.writeline("}")
