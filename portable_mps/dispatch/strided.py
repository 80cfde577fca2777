"""Hand-written kernels over strided operands: one thread an element, the variant is the rank.

Counterpart of kernels/lib/strided.slangh. Used where the elementwise planner does not fit, because an operand is
addressed through an index or read at another place than its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from portable_mps.dispatch.launch import Prepared, grid, launch
from portable_mps.dispatch.promotion import storage, type_name
from portable_mps.runtime.kernel import Template

_THREADS = 256
_RANKS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
_LIMIT = 2**31 - 1
_WORDS = {1: "uint8_t", 2: "uint16_t", 4: "uint", 8: "uint64_t", 16: "Word16"}


def word(dtype: torch.dtype) -> str:
    """The Slang type as wide as an element, for kernels that only move data."""
    return word_of(dtype.itemsize)


def word_of(size: int) -> str:
    """The Slang type of so many bytes: a power of two, up to 16."""
    return _WORDS[size]


def by_parts(function: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    """A linear function with real coefficients of a complex tensor, from one of real tensors."""
    return torch.complex(function(tensor.real.contiguous()), function(tensor.imag.contiguous()))


def dtype_defines(name: str, dtype: torch.dtype, complex: bool = False) -> dict[str, str]:
    """Definitions of a dtype: NAME its storage, NAME_C its compute type, NAME_LOAD(x) and NAME_STORE(x).

    complex: the kernel takes complex dtypes, too.
    """
    row = storage(dtype, complex)
    compute = "int" if row.compute == "bool" else row.compute
    load = row.load if row.compute != "bool" else "({} != 0 ? 1 : 0)"
    return {
        name: row.type,
        f"{name}_C": compute,
        f"{name}_LOAD(x)": load.format("(x)"),
        f"{name}_STORE(x)": row.store.format("x"),
    }


def collapse(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """(size, stride of each operand) per dimension, the innermost first, merged where every operand allows it."""
    merged: list[tuple[int, ...]] = []
    for size, *steps in reversed(list(zip(shape, *strides, strict=True))):
        if size == 1:
            continue
        if merged and all(step == merged[-1][0] * inner for step, inner in zip(steps, merged[-1][1:], strict=True)):
            merged[-1] = (size * merged[-1][0], *merged[-1][1:])
        else:
            merged.append((size, *steps))
    return merged or [(1, *(0 for _ in strides))]


class Strided:
    """An entry point whose Params are `pointers` addresses, STRIDED_FIELDS for `operands`, and `extras`.

    extras is a layout as in runtime.kernel.Template.
    """

    def __init__(self, stem: str, entry: str, pointers: int, operands: int, extras: str = "") -> None:
        self.stem, self.entry = stem, entry
        self.pointers, self.operands, self.extras = pointers, operands, extras
        self._templates: dict[tuple[int, bool], Template] = {}

    def __call__(
        self,
        shape: Sequence[int],
        strides: Sequence[Sequence[int]],
        pointers: Sequence[Any],
        extras: Sequence[Any],
        reads: Sequence[torch.Tensor],
        writes: Sequence[torch.Tensor],
        **defines: Any,
    ) -> None:
        """Run one thread for each element of `shape`. strides: each operand's, in elements.

        reads and writes are the tensors whose memory is touched; addresses reached through `extras` are the
        caller's to mark as wide by a define of its own.
        """
        planned = self._plan(shape, strides, extras, (*reads, *writes), defines)
        if planned is not None:
            template, groups, numbers, defines = planned
            launch(template, groups, [*pointers, *numbers], reads, writes, **defines)

    def prepared(
        self,
        shape: Sequence[int],
        strides: Sequence[Sequence[int]],
        extras: Sequence[Any],
        tensors: Sequence[torch.Tensor],
        **defines: Any,
    ) -> Prepared:
        """The same for tensors like these, of a shape that is not empty."""
        planned = self._plan(shape, strides, extras, tensors, defines)
        assert planned is not None
        template, groups, numbers, defines = planned
        return Prepared(template, groups, tuple(numbers), **defines)

    def _plan(
        self,
        shape: Sequence[int],
        strides: Sequence[Sequence[int]],
        extras: Sequence[Any],
        tensors: Sequence[torch.Tensor],
        defines: dict[str, Any],
    ) -> tuple[Template, tuple[int, int, int], list[Any], dict[str, Any]] | None:
        """Template, workgroups, the arguments behind the pointers, and defines; None where there is nothing to do."""
        dims = collapse(shape, strides)
        count = 1
        for size, *_ in dims:
            count *= size
        if count == 0:
            return None
        wide = "WIDE" in defines or _is_wide(count, dims, tensors)
        rank = next((r for r in _RANKS if r >= len(dims)), None)
        if rank is None:
            raise RuntimeError(f"{self.entry}: more than {_RANKS[-1]} dimensions that do not merge")
        dims += [(1, *(0 for _ in strides))] * (rank - len(dims))
        template = self._templates.get((rank, wide))
        if template is None:
            size_code, stride_code = "Qq" if wide else "Ii"
            layout = "Q" * self.pointers + size_code * (1 + rank) + stride_code * rank * self.operands + self.extras
            template = self._templates[rank, wide] = Template(self.stem, self.entry, layout)
        numbers = [count, *(d[0] for d in dims)]
        for operand in range(self.operands):
            numbers += [d[operand + 1] for d in dims]
        defines = {"RANK": rank, "OPERANDS": self.operands, **defines, **({"WIDE": 1} if wide else {})}
        return template, grid(-(-count // _THREADS)), [*numbers, *extras], defines


def _is_wide(count: int, dims: list[tuple[int, ...]], tensors: Sequence[torch.Tensor]) -> bool:
    if count > _LIMIT or any(tensor.untyped_storage().nbytes() > _LIMIT for tensor in tensors):
        return True
    return any(sum((d[0] - 1) * abs(d[i]) for d in dims) > _LIMIT for i in range(1, len(dims[0])))


class Linear:
    """An entry point over linear positions, whose operands are contiguous.

    layout is that of runtime.kernel.Template, with "x" for a field of type uindex; the kernel takes its place with
    POSITION of strided.slangh, so it has a field `n`.
    """

    def __init__(self, stem: str, entry: str, layout: str) -> None:
        self._templates = [Template(stem, entry, layout.replace("x", code)) for code in "IQ"]

    def __call__(
        self,
        count: int,
        arguments: Sequence[Any],
        reads: Sequence[torch.Tensor],
        writes: Sequence[torch.Tensor],
        **defines: Any,
    ) -> None:
        """Run one thread for each of `count` positions."""
        wide = count > _LIMIT or any(tensor.numel() > _LIMIT for tensor in (*reads, *writes))
        if wide:
            defines["WIDE"] = 1
        launch(self._templates[wide], grid(-(-count // _THREADS)), arguments, reads, writes, **defines)


def wrapped_dim(dim: int, rank: int) -> int:
    """dim counted from the front; IndexError in torch's words."""
    span = max(rank, 1)
    if not -span <= dim < span:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-span}, {span - 1}], but got {dim})")
    return dim % span


def on_device(*tensors: torch.Tensor) -> None:
    """Refuse operands and out= arguments that are elsewhere."""
    for tensor in tensors:
        if not tensor.is_mps:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, mps:0 and "
                f"{tensor.device}!"
            )


def resized(out: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`out` with this shape, by torch's rules for out=: a warning where it had elements of another shape."""
    on_device(out)
    if out.shape != torch.Size(shape):
        if out.numel():
            warnings.warn(
                f"An output with one or more elements was resized since it had shape {list(out.shape)}, which does "
                f"not match the required output shape {list(shape)}. This behavior is deprecated, and in a future "
                "PyTorch release outputs will not be resized unless they have zero elements.",
                UserWarning,
                stacklevel=3,
            )
        out.resize_(shape)
    return out


def resized_like(out: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """`resized` to the shape that the inputs broadcast to, laid out as TensorIterator lays out new outputs."""
    shape = torch.broadcast_shapes(*(t.shape for t in inputs))
    if out.shape != shape:
        strides = torch._prims_common.compute_elementwise_output_strides(*(t.expand(shape) for t in inputs))
        resized(out, shape).as_strided_(shape, strides)
    return out


def castable(out: torch.Tensor, dtype: torch.dtype, kind: type[Exception] = RuntimeError) -> None:
    """Check that a result of this dtype may go into an out= argument."""
    if not torch.can_cast(dtype, out.dtype):
        raise kind(f"result type {dtype} can't be cast to the desired output type {out.dtype}")


def has_repeats(tensor: torch.Tensor) -> bool:
    """Whether some elements certainly share memory, by the rule of ATen's MemoryOverlap.h."""
    return torch._debug_has_internal_overlap(tensor) == 1


def once_each(tensor: torch.Tensor) -> torch.Tensor:
    """Each element of an expanded tensor's memory once: repeated dimensions shrink to one."""
    sizes = [1 if stride == 0 and size else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return tensor.as_strided(sizes, tensor.stride())


def extent(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that an expanded tensor lies in, as a vector: for kernels whose writes may meet; others as is."""
    if not has_repeats(tensor):
        return tensor
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.as_strided((last + 1,), (1,))


def warn_if_expanded(name: str, self: torch.Tensor) -> bool:
    """torch's warning of in-place operators that it still lets write into an expanded tensor; whether it is one."""
    is_expanded = has_repeats(self)
    if is_expanded:
        warnings.warn(
            f"Use of {name} on expanded tensors is deprecated. Please clone() the tensor before performing this "
            "operation. This also applies to advanced indexing e.g. tensor[indices] = tensor",
            UserWarning,
            stacklevel=3,
        )
    return is_expanded


def separate(out: torch.Tensor, *inputs: torch.Tensor) -> None:
    """Refuse an out= argument with elements that share memory with each other or with an input's, by the rules of
    ATen's MemoryOverlap.h, which let through what would take long to find out."""
    _refuse(out, inputs, identical=False)


def apart_or_same(out: torch.Tensor, *inputs: torch.Tensor) -> None:
    """As `separate`, for operators that can work in place: an input may be the output, not only a part of it."""
    _refuse(out, inputs, identical=True)


def _refuse(out: torch.Tensor, inputs: Sequence[torch.Tensor], identical: bool) -> None:
    if has_repeats(out):
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a single memory location. "
            "Please clone() the tensor before performing the operation."
        )
    for tensor in inputs:
        if _overlapping(out, tensor) and not (identical and _is_same_part(out, tensor)):
            raise RuntimeError(
                "unsupported operation: some elements of the input tensor and the written-to tensor refer to a single "
                "memory location. Please clone() the tensor before performing the operation."
            )


def _is_same_part(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.data_ptr() == b.data_ptr() and a.numel() == b.numel() and a.stride() == b.stride())


def _overlapping(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a is not b:
        if a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr():
            return False
        if not all(torch._prims_common.is_non_overlapping_and_dense_or_false(t) for t in (a, b)):
            return False
    begin, other = a.data_ptr(), b.data_ptr()
    return a.numel() > 0 and b.numel() > 0 and begin < other + b.nbytes and other < begin + a.nbytes


def written(out: torch.Tensor, dtype: torch.dtype) -> None:
    """Check the dtype of an out= argument, in torch's words."""
    if out.dtype != dtype:
        raise RuntimeError(
            f"Expected out tensor to have dtype {type_name(dtype)}, but got {type_name(out.dtype)} instead"
        )


_move = Strided("shape", "move", pointers=2, operands=2, extras="q")


def reversing(out: torch.Tensor, source: torch.Tensor, dims: Sequence[int]) -> Prepared:
    """Dispatches out, any strides = `source` of the same shape and dtype, the other way round along `dims`."""
    strides = [-stride if d in dims else stride for d, stride in enumerate(source.stride())]
    last = sum((source.size(d) - 1) * source.stride(d) for d in dims)
    kind = {"T": word(source.dtype), "MOVE": 1}
    return _move.prepared(source.shape, (out.stride(), strides), (last,), (out, source), **kind)


def copy_reversed(out: torch.Tensor, source: torch.Tensor, dims: Sequence[int]) -> None:
    """What `reversing` dispatches, at once."""
    if source.numel():
        reversing(out, source, dims).record((out, source), (source,), (out,))
