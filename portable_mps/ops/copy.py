"""Copies between host and device and on the device, casts, and reading single values."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from portable_mps import _C
from portable_mps.dispatch import moves
from portable_mps.dispatch.pointwise import Pointwise
from portable_mps.dispatch.promotion import Promotion
from portable_mps.dispatch.registry import implements
from portable_mps.runtime import device

_assign = Pointwise("copy", ("a",), inputs=1, promotion=Promotion.NONE)
_assign_negated = Pointwise("copy_negated", ("-a",), inputs=1, promotion=Promotion.NONE)
_assign_truth = Pointwise("copy_truth", ("cast_bool(a)",), inputs=1, promotion=Promotion.NONE, complex=True)
_BUFFER = 1 << 20  # bytes from which a software driver's own copy is the fastest
_FLOAT8 = {getattr(torch, name) for name in dir(torch) if name.startswith("float8_")}


def copy_on_device(destination: torch.Tensor, source: torch.Tensor) -> None:
    """destination[...] = source for two `mps` tensors of any dtypes and strides, source broadcast."""
    if destination.is_neg():
        destination, source = torch._neg_view(destination), torch._neg_view(source)
    if destination.is_complex() or source.is_complex():
        return _copy_complex(destination, source)
    if source.is_neg():
        _assign_negated((destination,), (torch._neg_view(source),))
        return
    same = destination.dtype == source.dtype
    if same and source.dtype in _FLOAT8:  # every bit of a NaN is kept
        destination, source = destination.view(torch.uint8), source.view(torch.uint8)
    if same and destination.shape == source.shape and _move(destination, source):
        return
    _assign((destination,), (source,))


def _move(destination: torch.Tensor, source: torch.Tensor) -> bool:
    """Copy what has one shape and dtype, if there is a better way than element by element."""
    are_contiguous = destination.is_contiguous() and source.is_contiguous()
    if are_contiguous and destination.data_ptr() == source.data_ptr():
        return True
    if not moves.are_large(destination, source):
        return False
    is_buffer = are_contiguous and source.nbytes >= _BUFFER and device.current().adapter.is_software
    if is_buffer and not _C.is_capturing():
        device.current().stream.copy(destination.data_ptr(), source.data_ptr(), source.nbytes)
        return True
    if not are_contiguous and moves.transpose(destination, source):
        return True
    words = moves.in_words(destination, source)
    if words[0] is destination:
        return False
    _assign((words[0],), (words[1],))
    return True


def _copy_complex(destination: torch.Tensor, source: torch.Tensor) -> None:
    """copy_on_device by parts, for a destination that is not a negative view."""
    if destination.numel() == 0:
        return None
    if destination.dtype == torch.bool:  # true where either part is
        if source.is_neg() or source.is_conj():
            source = torch._neg_view(source) if source.is_neg() else source
            source = source.conj() if source.is_conj() else source
        _assign_truth((destination,), (source,))
        return None
    if not destination.is_complex():
        warnings.warn("Casting complex values to real discards the imaginary part", UserWarning, stacklevel=2)
        return copy_on_device(destination, source.real)
    if destination.is_conj():
        destination, source = destination.conj(), source.conj()
    if not source.is_complex():
        copy_on_device(destination.real, source)
        destination.imag.zero_()
    elif source.is_conj() or source.is_neg():
        # A part that is written may be a part that is still to be read.
        if destination.untyped_storage().data_ptr() == source.untyped_storage().data_ptr():
            source = source.clone()
        copy_on_device(destination.real, source.real)
        copy_on_device(destination.imag, source.imag)
    else:
        copy_on_device(torch.view_as_real(destination), torch.view_as_real(source))


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    """A contiguous CPU tensor's memory as 1-d uint8 numpy array."""
    # Not view(-1), which keeps the stride of a single element.
    return tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()


def _is_lazy(tensor: torch.Tensor) -> bool:
    """Whether the values are the negatives or the conjugates of those in memory."""
    return tensor.is_neg() or tensor.is_conj()


def upload(destination: torch.Tensor, source: torch.Tensor) -> None:
    """Fill an `mps` tensor from a CPU tensor of any dtype and strides, broadcast."""
    source = source.resolve_conj().resolve_neg()
    if _C.is_capturing():  # the values as they are now
        return copy_on_device(destination, _captured(source))
    if source.dtype != destination.dtype and source.element_size() >= destination.element_size():
        source = source.to(destination.dtype)
    direct = source.dtype == destination.dtype and destination.is_contiguous() and not _is_lazy(destination)
    if direct:
        source = source.expand(destination.shape).contiguous()
        target = destination
    else:
        source = source.contiguous()
        target = torch.empty(source.shape, dtype=source.dtype, device=destination.device)
    if source.numel():
        device.current().stream.upload(target.data_ptr(), _bytes(source))
    if not direct:
        copy_on_device(destination, target)


def _captured(source: torch.Tensor) -> torch.Tensor:
    """A CPU tensor on the device at once, for as long as the graph that is being captured."""
    _C.pause_capture(True)
    try:
        constant = torch.empty(source.shape, dtype=source.dtype, device="mps")
        upload(constant, source)
    finally:
        _C.pause_capture(False)
    _C.keep_in_capture(constant)
    return constant


def download(destination: torch.Tensor, source: torch.Tensor) -> None:
    """Fill a CPU tensor from an `mps` tensor of any dtype and strides; waits for the device."""
    source = source.resolve_conj().resolve_neg().contiguous()
    direct = (
        source.dtype == destination.dtype
        and destination.is_contiguous()
        and destination.shape == source.shape
        and not _is_lazy(destination)
    )
    target = destination if direct else torch.empty(source.shape, dtype=source.dtype, device="cpu")
    if source.numel():
        device.current().stream.download(source.data_ptr(), _bytes(target))
    if not direct:
        destination.copy_(target)


@implements("copy_")
def copy_(self: torch.Tensor, src: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """`non_blocking` needs nothing: uploads stage the host's bytes at once, downloads must be complete on return."""
    if self is src:
        return self
    if self.device.type == "mps":
        if self.shape != src.shape:
            torch.broadcast_shapes(self.shape, src.shape)
        if src._is_zerotensor():  # a gradient of torch's that has no memory
            self.zero_()
        elif src.device.type == "mps":
            copy_on_device(self, src)
        elif src.device.type == "cpu":
            upload(self, src)
        else:
            raise RuntimeError(f"cannot copy from {src.device} to {self.device}")
    elif src._is_zerotensor():
        self.zero_()
    else:
        download(self, src if self.shape == src.shape else src.expand(self.shape))
    return self


@implements("_copy_from")
def _copy_from(self: torch.Tensor, dst: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    return copy_(dst, self, non_blocking)


@implements("_copy_from_and_resize")
def _copy_from_and_resize(self: torch.Tensor, dst: torch.Tensor) -> torch.Tensor:
    dst.resize_(self.shape)
    return copy_(dst, self)


@implements("_local_scalar_dense")
def _local_scalar_dense(self: torch.Tensor) -> bool | int | float | complex:
    host = torch.empty((1,), dtype=self.dtype, device="cpu")
    download(host, self.reshape(1))
    return host.item()
