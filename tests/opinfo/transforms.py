"""The checks `vmap`, `vjp` and `jvp`: torch.func's transforms of an operator give what they give on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

from opinfo import both, compare, samples, ties
from opinfo.both import Problems, Sample


@torch.no_grad()
def vmap(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """torch.func.vmap over a new first dimension: of all tensors, and of the first one alone."""
    tensors = both.tensors(sample)
    if not tensors or any(t.layout != torch.strided for t in tensors) or ties.is_free(op, sample):
        return
    for name, batched in (("all batched", tensors), ("one batched", tensors[:1])):
        if name == "all batched" or len(tensors) > 1:
            stacked, function = _vmapped(op, sample, {id(t) for t in batched})
            for problem in both.compared(op, dtype, function, stacked):
                yield both.named(name, problem)


def _vmapped(op: Any, sample: Sample, ids: set[int]) -> tuple[Sample, Callable[..., Any]]:
    """The sample with the tensors of these ids stacked, and the function of it."""
    leaves, tree = pytree.tree_flatten((sample.input, tuple(sample.args), sample.kwargs))
    places = [i for i, leaf in enumerate(leaves) if id(leaf) in ids]
    stacked = both.mapped(sample, lambda leaf: _stacked(leaf) if id(leaf) in ids else leaf)

    def function(input: Any, *args: Any, **kwargs: Any) -> Any:
        extra = {name: kwargs.pop(name) for name in set(kwargs) - set(sample.kwargs)}  # a factory's device
        flat = pytree.tree_leaves((input, args, kwargs))

        def of_one(*parts: torch.Tensor) -> Any:
            mixed = list(flat)
            for place, part in zip(places, parts, strict=True):
                mixed[place] = part
            input, args, kwargs = pytree.tree_unflatten(mixed, tree)
            return sample.output_process_fn_grad(op(input, *args, **kwargs, **extra))

        return torch.func.vmap(of_one)(*(flat[i] for i in places))

    stacked.output_process_fn_grad = lambda result: result
    return stacked, function


def _stacked(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor twice, the second time in another order where any order is as good."""
    tensor = tensor.detach()
    # Reversed along one dimension, a matrix may no longer be positive definite: along both it is.
    dims = [i for i in (-2, -1) if -i <= tensor.dim()] if tensor.is_floating_point() or tensor.is_complex() else []
    return torch.stack([tensor, tensor.flip(dims)])


def vjp(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """torch.func.vjp with respect to all floating-point tensors."""

    def function(input: Any, *args: Any, **kwargs: Any) -> Any:
        of_floating, floating = _of_floating(op, sample, (input, args, kwargs))
        outputs, pull_back = torch.func.vjp(of_floating, *floating)
        return outputs, pull_back(tuple(_eighths(t, i) for i, t in enumerate(outputs)))

    yield from _transformed(op, dtype, function, sample)


def jvp(op: Any, dtype: torch.dtype, sample: Sample) -> Problems:
    """torch.func.jvp with respect to all floating-point tensors."""

    def function(input: Any, *args: Any, **kwargs: Any) -> Any:
        of_floating, floating = _of_floating(op, sample, (input, args, kwargs))
        tangents = tuple(_eighths(t, i) for i, t in enumerate(floating))
        return torch.func.jvp(of_floating, tuple(floating), tangents)

    yield from _transformed(op, dtype, function, sample)


def _of_floating(op: Any, sample: Sample, nest: Any) -> tuple[Callable[..., tuple[torch.Tensor, ...]], list[Any]]:
    """The operator as a function of its differentiable tensors, giving its differentiable results; and the tensors."""
    flat, tree = pytree.tree_flatten(nest)
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]

    def function(*parts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mixed = list(flat)
        for place, part in zip(places, parts, strict=True):
            mixed[place] = part
        input, args, kwargs = pytree.tree_unflatten(mixed, tree)
        torch.manual_seed(0)
        results = sample.output_process_fn_grad(op(input, *args, **kwargs))
        return tuple(t for t in pytree.tree_leaves(results) if isinstance(t, torch.Tensor) and _has_gradient(t))

    return function, [flat[i].detach() for i in places]


def _has_gradient(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _eighths(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """Multiples of 1/8 of the tensor's shape, which every floating-point dtype holds, equal on all devices."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-8, 9, tensor.shape, generator=generator).double() / 8
    if tensor.is_complex():
        drawn = torch.complex(drawn, torch.randint(-8, 9, tensor.shape, generator=generator).double() / 8)
    return drawn.to(tensor.dtype).to(tensor.device)


def _transformed(op: Any, dtype: torch.dtype, function: Callable[..., Any], sample: Sample) -> Problems:
    tensors = both.tensors(sample)
    if not any(t.requires_grad for t in tensors) or any(t.layout != torch.strided for t in tensors):
        return
    expected, refusal = both.attempt(lambda: samples.call(op, function, sample, "cpu"))
    if refusal is not None or ties.is_free(op, sample):  # among equal elements the gradient may go to any
        return

    def check() -> None:
        compare.assert_agree(
            samples.call(op, function, sample, "mps"),
            expected,
            compare.tolerance(op, dtype, gradient=True),
            again=lambda state: both.reseeded(op, function, sample, state),
            reference=lambda: samples.call(op, function, both.exact(sample), "cpu"),
            values=compare.promises_values(op),
        )

    yield both.attempt(check)[1]
