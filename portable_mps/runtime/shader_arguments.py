"""The arguments of a user's kernel: checked against its reflected signature, packed as the kernel reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch

_FORMATS = {
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}
_CASTS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
}
"""The names that torch knows for `arg_casts`."""


def casts_of(arg_casts: Any, count: int) -> list[torch.dtype | None]:
    """What to cast each of `count` arguments to, from arg_casts: None, a name for all, or names by position."""
    if arg_casts is None:
        names: dict[int, str] = {}
    elif isinstance(arg_casts, str):
        names = dict.fromkeys(range(count), arg_casts)
    elif isinstance(arg_casts, dict):
        names = arg_casts
    else:
        raise RuntimeError(f"Unexpected caster arg type {type(arg_casts).__name__}")
    for name in names.values():
        if name not in _CASTS:
            raise RuntimeError(f"Unsupported cast instruction {name}: expected one of {', '.join(_CASTS)}")
    return [_CASTS[names[i]] if i in names else None for i in range(count)]


class Parameter:
    """One uniform parameter of an entry point."""

    def __init__(self, kernel: str, reflected: Any) -> None:
        self.name = reflected.name
        self._where = f"{kernel}: argument '{reflected.name}'"
        self._layout = reflected.type_layout
        self.is_pointer = _kind(self._layout) == "pointer"

    @property
    def is_error_record(self) -> bool:
        """Whether it is a pointer to lib.indexing's ErrorWord."""
        return self.is_pointer and self._layout.element_type_layout.type.name == "ErrorWord"

    def pack(self, value: Any, cast: torch.dtype | None) -> tuple[bytes, list[torch.Tensor]]:
        """The parameter's bytes, and the tensors whose memory it gives to the kernel. RuntimeError where value does
        not fit."""
        if self.is_pointer:
            tensors = self._pointed(value, cast)
            return tensors[0].data_ptr().to_bytes(8, "little"), tensors
        if isinstance(value, torch.Tensor):
            value = self._values(value)
        return self._plain(self._layout, value, cast), []

    def _fail(self, problem: str) -> RuntimeError:
        return RuntimeError(f"{self._where} {problem}")

    # Pointers ------------------------------------------------------------------------------------

    def _pointed(self, value: Any, cast: torch.dtype | None) -> list[torch.Tensor]:
        """The tensor that the pointer is to, then those that it points to in turn."""
        element = self._layout.element_type_layout
        wanted = f"a pointer to {element.type.full_name}"
        if isinstance(value, torch.Tensor):
            self._check_tensor(value, element)
            return [value]
        if not isinstance(value, (list, tuple)):
            raise self._fail(f"is {wanted}: expected a tensor, got {type(value).__name__}")
        if not value:
            raise self._fail("cannot be an empty list or tuple")
        tensors = [v for v in value if isinstance(v, torch.Tensor)]
        if not tensors:  # a short list of numbers travels as a tensor of its own
            return [_uploaded(b"".join(self._plain(element, v, cast) for v in value))]
        if _kind(element) != "pointer" or len(tensors) != len(value):
            raise self._fail(f"is {wanted}, which a list of tensors is not")
        for tensor in tensors:
            self._check_tensor(tensor, element.element_type_layout)
        return [_uploaded(b"".join(t.data_ptr().to_bytes(8, "little") for t in tensors)), *tensors]

    def _check_tensor(self, tensor: torch.Tensor, element: Any) -> None:
        if tensor.device.type != "mps":
            raise self._fail(f"is a pointer to device memory: Passed {tensor.device.type.upper()} tensor to MPS op")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            raise self._fail("needs a plain strided tensor: no sparse or quantised one, no lazy conj() or negation")
        scalar = element.type.scalar_type.name
        if scalar not in (*_FORMATS, "bool"):
            return  # a struct: what it is made of is the caller's affair
        dtype, size = tensor.dtype, element.stride
        if dtype.is_complex and _kind(element) == "vector":
            fits = scalar.startswith("float") and element.type.col_count == 2
        elif _kind(element) == "vector":
            size //= element.type.col_count
            fits = _same_kind(scalar, dtype)
        else:
            fits = _same_kind(scalar, dtype)
        if dtype.itemsize != size or not fits:
            raise self._fail(f"is a pointer to {element.type.full_name}, which a tensor of {dtype} is not")

    # Values --------------------------------------------------------------------------------------

    def _values(self, tensor: torch.Tensor) -> Any:
        """The number or the list of numbers in a small tensor: reading it from the device waits for it."""
        if tensor.device.type != "mps" and tensor.dim() > 0:
            raise self._fail(
                f"is a value: Passed {tensor.device.type.upper()} tensor to MPS op, of {tensor.dim()} "
                "dimensions; pass numbers, or a tensor without dimensions"
            )
        if _kind(self._layout) != "scalar":
            return tensor.tolist()
        if tensor.numel() != 1:
            raise self._fail(f"is a single {self._layout.type.full_name}, got a tensor of {tensor.numel()} elements")
        return tensor.item()

    def _plain(self, layout: Any, value: Any, cast: torch.dtype | None) -> bytes:
        kind = _kind(layout)
        if kind == "scalar":
            return self._scalar(layout.type.scalar_type.name, layout.size, value, cast)
        if kind == "struct":
            return self._struct(layout, value, cast)
        if kind in ("vector", "array"):
            count = layout.type.col_count if kind == "vector" else layout.type.element_count
            element = layout.element_type_layout
            parts = [self._plain(element, v, cast) for v in self._sequence(value, count)]
            return b"".join(part.ljust(element.stride, b"\0") for part in parts)[: layout.size]
        if kind == "matrix":
            rows, columns = layout.type.row_count, layout.type.col_count
            scalar, size = layout.type.scalar_type.name, layout.size // (rows * columns)
            lines = [self._sequence(row, columns) for row in self._sequence(value, rows)]
            return b"".join(self._scalar(scalar, size, v, cast) for row in lines for v in row)
        raise self._fail(f"is of a type that cannot be passed: {layout.type.full_name}")

    def _sequence(self, value: Any, count: int) -> Sequence[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != count:
            got = f"{len(value)} values" if isinstance(value, (list, tuple)) else type(value).__name__
            raise self._fail(f"is {self._layout.type.full_name}: expected {count} values in a list or tuple, got {got}")
        return value

    def _struct(self, layout: Any, value: Any, cast: torch.dtype | None) -> bytes:
        names = [field.name for field in layout.fields]
        if not isinstance(value, dict) or set(value) != set(names):
            raise self._fail(f"is the struct {layout.type.full_name}: expected a dict of {', '.join(names)}")
        packed = bytearray(layout.size)
        for field in layout.fields:
            part = self._plain(field.type_layout, value[field.name], cast)
            packed[field.offset : field.offset + len(part)] = part
        return bytes(packed)

    def _scalar(self, scalar: str, size: int, value: Any, cast: torch.dtype | None) -> bytes:
        if not isinstance(value, Real):
            raise self._fail(f"expects a number, got {type(value).__name__}: Unsupported argument type")
        if cast is not None:
            value = torch.tensor(value).to(cast).item()
        if scalar == "bool":
            if value not in (0, 1):
                raise self._fail(f"is a bool, got {value}")
            return int(value).to_bytes(size, "little")
        if scalar.startswith("float"):
            plain: int | float = float(value)
        elif isinstance(value, Integral):
            plain = int(value)
        else:
            raise self._fail(f"is {scalar}, got {value}: pass an integer, or arg_casts")
        try:
            return struct.pack(f"<{_FORMATS[scalar]}", plain)
        except (struct.error, OverflowError):
            raise self._fail(f"cannot be {value}: the value cannot be converted to {scalar} without overflow") from None


def _kind(layout: Any) -> str:
    return str(layout.kind.name)


def _same_kind(scalar: str, dtype: torch.dtype) -> bool:
    """Whether a pointer to `scalar` may read a tensor of `dtype`, as far as its size allows: an unsigned integer stands
    for raw bits of any kind, a signed one for integers."""
    if scalar.startswith("uint"):
        return True
    if scalar.startswith("float"):
        return dtype in (torch.float16, torch.float32, torch.float64)
    return not dtype.is_floating_point and not dtype.is_complex


def _uploaded(packed: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8).to("mps")
