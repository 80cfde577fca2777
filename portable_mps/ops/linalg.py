"""What the families of dense linear algebra share: matrices of a batch in memory, checks, and kernels over them.

Counterpart of kernels/linalg.slangh. Results lie column by column, as LAPACK leaves them on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch

from portable_mps.dispatch.launch import grid, launch
from portable_mps.dispatch.promotion import scalar_type, storage
from portable_mps.dispatch.registry import implements, register
from portable_mps.dispatch.strided import castable, collapse, on_device, resized, separate, wrapped_dim, written
from portable_mps.runtime.kernel import Template

Function = TypeVar("Function", bound=Callable[..., Any])
MOST_TURNS = 30000
"""Turns of all loops of a thread. Mesa's software driver ends loops after 65535 turns in a dispatch, without an error:
longer work is several dispatches."""
_LAPACK = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def check_dtype(name: str, tensor: torch.Tensor) -> None:
    """NotImplementedError for what LAPACK has no routine for, in the words of torch's CPU kernel `name`."""
    if tensor.numel() and tensor.dtype not in _LAPACK:
        raise NotImplementedError(f"\"{name}\" not implemented for '{scalar_type(tensor.dtype)}'")


def check_square(name: str, a: torch.Tensor) -> None:
    """RuntimeError unless `a` is a matrix or a batch of them, with as many rows as columns."""
    if a.dim() < 2:
        raise RuntimeError(f"{name}: The input tensor A must have at least 2 dimensions.")
    if a.shape[-1] != a.shape[-2]:
        raise RuntimeError(
            f"{name}: A must be batches of square matrices, but they are {a.shape[-2]} by {a.shape[-1]} matrices"
        )


def structured(name: str, *outputs: str) -> Callable[[Function], Function]:
    """Decorator: the function is the kernel of structured operator `name` ("linalg_qr.out") with these outputs.

    Called with out=, torch leaves checks and the outputs' shapes to the kernel: its meta function is asked for them.
    What comes back of the decorator is the kernel alone.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            given = [kwargs.pop(output) for output in outputs]
            operator = getattr(torch.ops.aten, name.partition(".")[0]).default  # here, for it is slow the first time
            expected = _meta_results(operator, args, kwargs)
            for out, wanted in zip(given, expected, strict=True):
                _fit(out, wanted)
            memory = {out.untyped_storage().data_ptr() for out in given if out.numel()}

            def apart(value: Any) -> Any:
                """Kernels write outputs before they have read all inputs."""
                shared = isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in memory
                return value.clone() if shared else value

            inputs, options = [apart(a) for a in args], {name: apart(a) for name, a in kwargs.items()}
            return function(*inputs, **options, **dict(zip(outputs, given, strict=True)))

        register(name, checked)
        return function

    return decorate


def _meta_results(operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    def to_meta(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        on_device(value)
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    try:
        results = operator(*map(to_meta, args), **{name: to_meta(value) for name, value in kwargs.items()})
    except AssertionError as error:  # a few of torch's own checks in Python raise it
        raise RuntimeError(str(error)) from None
    return results if isinstance(results, tuple) else (results,)


def _fit(out: torch.Tensor, wanted: torch.Tensor) -> None:
    """Check an output's device and dtype; give it the shape of `wanted`, with its strides if the shape was another."""
    on_device(out)
    written(out, wanted.dtype)
    if out.shape != wanted.shape:
        torch._prims_common.wrappers._maybe_resize_out(out, wanted.shape)
        out.as_strided_(wanted.shape, wanted.stride())


def register_outputs(name: str, function: Callable[..., Any], *outputs: str, casts: bool = True) -> None:
    """Make `function`, which returns new tensors, the kernel of operator `name` with these outputs, too.

    casts: outputs may have other dtypes that the results can be cast to.
    """

    def into(*args: Any, **kwargs: Any) -> Any:
        given = [kwargs.pop(output) for output in outputs]
        on_device(*given)
        results = function(*args, **kwargs)
        for out, result in zip(given, results if len(given) > 1 else (results,), strict=True):
            (castable if casts else written)(out, result.dtype)
            if out.shape != result.shape:
                torch._prims_common.wrappers._maybe_resize_out(out, result.shape)
            if out.numel() == 0:  # takes the result's strides, as on the CPU
                out.as_strided_(result.shape, result.stride())
            out.copy_(result)
        return tuple(given) if len(given) > 1 else given[0]

    register(name, into)


def columns_empty(like: torch.Tensor, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An uninitialised (..., m, n) tensor whose matrices lie column by column."""
    return like.new_empty((*shape[:-2], shape[-1], shape[-2]), dtype=dtype).mT


def columns_copy(source: torch.Tensor) -> torch.Tensor:
    """A copy of (..., m, n) whose matrices lie column by column."""
    return columns_empty(source, *source.shape).copy_(source)


def resize_columns(out: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """`out` with this shape, by torch's rules for out=; column by column where it had to be resized."""
    on_device(out)
    if out.shape != torch.Size(shape):
        torch._prims_common.wrappers._maybe_resize_out(out, (*shape[:-2], shape[-1], shape[-2]))
        out.transpose_(-2, -1)
    return out


def _as_stack(tensor: torch.Tensor) -> torch.Tensor | None:
    """(..., m, n) as a (batch, m, n) view; None where the dimensions of the batch do not merge."""
    dims = collapse(tensor.shape[:-2], [tensor.stride()[:-2]])
    if len(dims) > 1:
        return None
    size, stride = dims[0]
    return tensor.as_strided((size, *tensor.shape[-2:]), (stride, *tensor.stride()[-2:]))


def stack(tensor: torch.Tensor) -> torch.Tensor:
    """(..., m, n) as (batch, m, n), a view where that can be, for reading."""
    tensor = tensor.resolve_conj()
    view = _as_stack(tensor) if tensor.numel() else None
    return tensor.reshape(math.prod(tensor.shape[:-2]), *tensor.shape[-2:]) if view is None else view


@contextlib.contextmanager
def stacked_in_place(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """(..., m, n) as (batch, m, n) to be changed: a view, or a copy that is written back at the end."""
    view = stack(tensor)
    yield view
    if tensor.numel() and view.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
        tensor.copy_(view.view(tensor.shape))


def threads_for(size: int) -> tuple[int, int]:
    """Threads of a workgroup, and how many of them are rows, for matrices of `size` rows."""
    return (32, 8) if size <= 32 else (256, 32)


class MatrixKernel:
    """An entry point whose `Params` are `matrices` fields MATRIX(name), `pointers` addresses with the distance of two
    matrices' elements behind the last one, and `numbers` uint32 fields.
    """

    def __init__(self, stem: str, entry: str, matrices: int, pointers: int, numbers: int) -> None:
        self._template = Template(stem, entry, "Q3q" * matrices + "Q" * pointers + "q" + "I" * numbers)

    def __call__(
        self,
        matrices: Sequence[torch.Tensor],
        pointers: Sequence[Any],
        distance: int,
        numbers: Sequence[int],
        size: int,
        writes: Sequence[torch.Tensor],
        columns: int | None = None,
        per_thread: bool = False,
    ) -> None:
        """Launch over (batch, m, n) matrices of one dtype.

        pointers: tensors, or 0 for one that the entry point does not touch; distance: elements between the pointees of
        two matrices. size: how many rows the threads share. writes: the tensors that are written. columns: to be spread
        over workgroups, as many as there are rows of threads to each, or one per_thread; None gives a workgroup the
        whole matrix.
        """
        batch = matrices[0].shape[0]
        if batch == 0:
            return
        threads, rows = threads_for(size)
        each = threads if per_thread else threads // rows
        groups = batch if columns is None else batch * -(-columns // each)
        dtype = matrices[0].dtype
        if dtype not in _LAPACK:  # of an operator whose checked argument was empty
            raise NotImplementedError(f"\"linalg\" not implemented for '{scalar_type(dtype)}'")
        arguments: list[Any] = []
        for matrix in matrices:
            arguments += [matrix, *matrix.stride()]
        given = [*matrices, *(p for p in pointers if isinstance(p, torch.Tensor))]
        launch(
            self._template,
            grid(groups),
            [*arguments, *pointers, distance, batch, *numbers],
            [t for t in given if all(t is not w for w in writes)],
            writes,
            NUMBER=storage(dtype, complex=True).type,
            REAL=storage(dtype.to_real()).type,
            IS_COMPLEX=int(dtype.is_complex),
            EPSILON=f"REAL({torch.finfo(dtype).eps!r})",
            THREADS=threads,
            ROWS=rows,
        )


def _cross_into(out: torch.Tensor | None, self: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    if self.dim() != other.dim():
        raise RuntimeError("linalg.cross: inputs must have the same number of dimensions.")
    wrapped_dim(dim, self.dim())
    if self.size(dim) != 3 or other.size(dim) != 3:
        raise RuntimeError(
            f"linalg.cross: inputs dimension {dim} must have length 3. Got {self.size(dim)} and {other.size(dim)}"
        )
    shape = torch.broadcast_shapes(self.shape, other.shape)
    dtype = torch.promote_types(self.dtype, other.dtype)
    if dtype == torch.bool:
        raise NotImplementedError("\"cross\" not implemented for 'Bool'")
    if out is not None:
        written(out, dtype)
        resized(out, shape)
        separate(out, self, other)
    next_, last = (t.roll(-1, dim) for t in (self, other)), (t.roll(-2, dim) for t in (self, other))
    (a1, b1), (a2, b2) = next_, last
    result = a1 * b2 - a2 * b1
    return result if out is None else out.copy_(result)


@implements("linalg_cross")
def linalg_cross(self: torch.Tensor, other: torch.Tensor, *, dim: int = -1) -> torch.Tensor:
    """The vector product along a dimension of size 3."""
    return _cross_into(None, self, other, dim)


@implements("linalg_cross.out")
def linalg_cross_out(self: torch.Tensor, other: torch.Tensor, *, dim: int = -1, out: torch.Tensor) -> torch.Tensor:
    """The cross product along `dim`, whose size is 3."""
    return _cross_into(out, self, other, dim)
