"""Inputs from torch's operator database, made on the CPU so that both devices see equal values."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils import _pytree as pytree

_kept: torch.Tensor | None = None


@contextlib.contextmanager
def on_host(tensor: torch.Tensor) -> Iterator[None]:
    """The tensor stays on the CPU, whatever device its neighbours are moved to."""
    global _kept
    _kept = tensor
    try:
        yield
    finally:
        _kept = None


class Mover:
    """Copies nests of arguments to a device with their strides, offsets and shared storages.

    The whole storage travels, since as_strided and its kin read outside of the view that they are given. Leaves stay
    leaves; a memo makes tensors that share memory on the CPU share it in the copy.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._flat: dict[tuple[int, torch.dtype], torch.Tensor] = {}
        self._moved: dict[int, torch.Tensor] = {}
        self._originals: list[torch.Tensor] = []  # alive, so that ids stay theirs

    def __call__(self, value: Any) -> Any:
        return pytree.tree_map(self._value, value)

    def _value(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            if value is _kept:
                return value
            if id(value) not in self._moved:
                self._originals.append(value)
                self._moved[id(value)] = self._tensor(value)
            return self._moved[id(value)]
        if isinstance(value, torch.device) and value.type == "cpu":
            return torch.device(self._device)
        if isinstance(value, str) and value == "cpu":
            return self._device
        if isinstance(value, torch.Generator):
            return torch.Generator(self._device).manual_seed(value.initial_seed())
        return value

    @torch.no_grad()
    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout != torch.strided or tensor.is_nested:
            moved = tensor.detach().to(self._device, copy=True)
        else:
            moved = self._storage(tensor).as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
            if tensor.is_conj():
                moved = moved.conj()
            if tensor.is_neg():
                moved = torch._neg_view(moved)
        moved = moved.detach()
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(moved, tensor.requires_grad)
        return moved.requires_grad_(tensor.requires_grad)

    def _storage(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        key = (storage._cdata, tensor.dtype)
        if key not in self._flat:
            flat = torch.empty(0, dtype=tensor.dtype).set_(storage, 0, (storage.nbytes() // tensor.itemsize,))
            self._flat[key] = flat.to(self._device, copy=True)
        return self._flat[key]


def with_quick(samples: Iterable[Any], size: int) -> Iterator[tuple[Any, bool]]:
    """Each sample, and whether it is of the quick part: the first `size`, and as many more of a new structure."""
    seen, extra = set(), 0
    for index, sample in enumerate(samples):
        structure = _structure(sample)
        is_quick = index < size
        if not is_quick and structure not in seen and extra < size:
            is_quick, extra = True, extra + 1
        seen.add(structure)
        yield sample, is_quick


def _structure(sample: Any) -> tuple[Any, ...]:
    sample = getattr(sample, "sample_input", sample)  # an ErrorInput has a sample
    leaves, tree = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    return (str(tree), *(_kind(leaf) for leaf in leaves))


def _kind(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, torch.Tensor):
        strided = leaf.layout == torch.strided
        return (leaf.dtype, leaf.dim(), leaf.numel() == 0, leaf.is_contiguous() if strided else str(leaf.layout))
    return (type(leaf), leaf if isinstance(leaf, (str, bool)) else None)


# Arguments that stay on the host with every device.
HOST_ARGUMENTS = {"tensor_split"}  # its indices decide the shapes


def arguments(op: Any, sample: Any, device: str) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Copies on the device of a sample's input, args and kwargs."""
    if op.name in HOST_ARGUMENTS:
        return Mover(device)(sample.input), Mover("cpu")(tuple(sample.args)), dict(sample.kwargs)
    input, args, kwargs = Mover(device)((sample.input, tuple(sample.args), sample.kwargs))
    if op.is_factory_function and not any(isinstance(a, torch.Tensor) for a in (input, *args)):
        kwargs.setdefault("device", device)
    return input, args, kwargs


def call(op: Any, function: Callable[..., Any], sample: Any, device: str) -> Any:
    """function of the sample's arguments, copied to the device, from a fixed state of its random generator.

    Errors that a kernel records are raised by the synchronisation.
    """
    input, args, kwargs = arguments(op, sample, device)
    torch.manual_seed(0)
    result = function(input, *args, **kwargs)
    if device == "mps":
        torch.mps.synchronize()
    return result


@contextlib.contextmanager
def reseeded(by: int) -> Iterator[None]:
    """Other random numbers, seeds being `by` further, also for the operators that torch wraps to seed themselves."""
    seed = torch.manual_seed
    with mock.patch.object(torch, "manual_seed", lambda value: seed(value + by)):
        yield
