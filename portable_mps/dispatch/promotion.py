"""dtypes in kernels: how each is stored, what it is computed in, and how operands of several are reconciled."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch

from portable_mps.runtime import device


class Promotion(enum.IntEnum):
    """How an operator's operand dtypes relate. The values are those of csrc/iterator.h."""

    NONE = 0
    DEFAULT = 1
    FLOAT = 2
    BOOL = 3
    SAME = 4


@dataclass(frozen=True)
class Storage:
    """A dtype in Slang.

    type is the pointee, compute the type that arithmetic happens in, load and store the conversions between them as
    format strings; code is torch's ScalarType number, which the C++ planner reports; module is where load and store
    are, if not in the library that every kernel imports.
    """

    dtype: torch.dtype
    code: int
    type: str
    compute: str
    load: str = "{}"
    store: str = "{}"
    module: str = ""


_ROWS = (
    Storage(torch.uint8, 0, "uint8_t", "int", "int({})", "cast_uint8({})"),
    Storage(torch.int8, 1, "int8_t", "int", "int({})", "cast_int8({})"),
    Storage(torch.int16, 2, "int16_t", "int", "int({})", "cast_int16({})"),
    Storage(torch.int32, 3, "int", "int", "{}", "cast_int32({})"),
    Storage(torch.int64, 4, "int64_t", "int64_t", "{}", "cast_int64({})"),
    Storage(torch.float16, 5, "half", "float", "float({})", "cast_half({})"),
    Storage(torch.float32, 6, "float", "float", "{}", "cast_float({})"),
    Storage(torch.float64, 7, "double", "double", "{}", "cast_double({})"),
    Storage(torch.bool, 11, "uint8_t", "bool", "({} != 0)", "uint8_t(cast_bool({}) ? 1 : 0)"),
    Storage(torch.bfloat16, 15, "uint16_t", "float", "bf16_to_f32({})", "cast_bf16({})"),
    Storage(torch.uint16, 27, "uint16_t", "int", "int({})", "uint16_t(cast_int32({}))"),
    Storage(torch.uint32, 28, "uint", "int64_t", "int64_t({})", "uint(cast_int64({}))"),
    Storage(torch.uint64, 29, "uint64_t", "uint64_t", "{}", "cast_uint64({})"),
)
# torch 2.11 makes NaN of what float8_e4m3fn cannot hold, later versions the largest value.
_E4M3_OVERFLOW = int(torch.tensor(1e9).to(torch.float8_e4m3fn).view(torch.uint8))


def _float8(dtype: torch.dtype, code: int, load: str, store: str) -> Storage:
    return Storage(dtype, code, "uint8_t", "float", load, store.replace("{}", "cast_float({})"), "lib.float8")


# Two numbers in memory. Hand-written kernels say that they take them.
_COMPLEX_ROWS = (
    Storage(
        torch.complex32, 8, "ComplexHalf", "Complex", "widened({})", "narrowed(cast_Complex({}))", module="lib.complex"
    ),
    Storage(torch.complex64, 9, "Complex", "Complex", store="cast_Complex({})", module="lib.complex"),
    Storage(
        torch.complex128, 10, "ComplexDouble", "ComplexDouble", store="cast_ComplexDouble({})", module="lib.complex"
    ),
)
# Elementwise kernels take these, and products.
_FLOAT8_ROWS = (
    _float8(torch.float8_e5m2, 23, "float8_value({}, 2, 15, 0x7c)", "float8_of({}, 2, 15, 0x7b, 0x7c, 0x7f)"),
    _float8(
        torch.float8_e4m3fn,
        24,
        "float8_value({}, 3, 7, 0x7f)",
        f"float8_of({{}}, 3, 7, 0x7e, {_E4M3_OVERFLOW}, 0x7f)",
    ),
    _float8(torch.float8_e5m2fnuz, 25, "float8_value({}, 2, 16, 0x80)", "float8_of({}, 2, 16, 0x7f, 0x80, 0x80)"),
    _float8(torch.float8_e4m3fnuz, 26, "float8_value({}, 3, 8, 0x80)", "float8_of({}, 3, 8, 0x7f, 0x80, 0x80)"),
    _float8(torch.float8_e8m0fnu, 44, "float8_power({})", "float8_power_of({})"),
)
# Where a sum in parts would be rounded, or wrap, at each of them.
_SUMMED_IN = {dtype: torch.float32 for dtype in (torch.float16, torch.bfloat16)}
_SUMMED_IN |= {dtype: torch.int32 for dtype in (torch.uint8, torch.int8, torch.int16)}
BY_DTYPE = {row.dtype: row for row in _ROWS}
_BY_DTYPE_WITH_COMPLEX = {row.dtype: row for row in (*_ROWS, *_COMPLEX_ROWS)}
_BY_DTYPE_WITH_FLOAT8 = {row.dtype: row for row in (*_ROWS, *_FLOAT8_ROWS)}
BY_CODE = {row.code: row for row in (*_ROWS, *_COMPLEX_ROWS, *_FLOAT8_ROWS)}
COMPLEX_TYPES = ("Complex", "ComplexDouble")
"""What complex dtypes are computed in (kernels/lib/complex.slang)."""


def storage(dtype: torch.dtype, complex: bool = False, float8: bool = False) -> Storage:
    """The row of `dtype`; raises NotImplementedError for one that kernels do not take.

    complex, float8: the kernel takes complex dtypes, or 8-bit floats, too; it imports the row's module.
    """
    try:
        return _there((_BY_DTYPE_WITH_COMPLEX if complex else _BY_DTYPE_WITH_FLOAT8 if float8 else BY_DTYPE)[dtype])
    except KeyError:
        raise NotImplementedError(
            f"Trying to use {dtype} on the MPS device, which this operator does not support"
        ) from None


def _there(row: Storage) -> Storage:
    """The row; NotImplementedError where the adapter lacks its type. (Tensors of float64 cannot even be made there.)"""
    if "half" in row.type.lower() and not device.current().adapter.features["float16"]:
        raise NotImplementedError(
            f"Trying to use {row.dtype} on the MPS device, whose adapter has no 16-bit floats (shaderFloat16). Please "
            "use float32 or bfloat16 instead."
        )
    return row


def scalar_type(dtype: torch.dtype) -> str:
    """ATen's name of a dtype, as its errors have it: Float, Long, BFloat16."""
    return torch.empty(0, dtype=dtype).type().removeprefix("torch.").removesuffix("Tensor")


_TYPE_NAMES = {
    torch.uint8: "unsigned char",
    torch.int8: "signed char",
    torch.int16: "short int",
    torch.int32: "int",
    torch.int64: "long int",
    torch.float16: "c10::Half",
    torch.float32: "float",
    torch.float64: "double",
    torch.complex32: "c10::complex<c10::Half>",
    torch.complex64: "c10::complex<float>",
    torch.complex128: "c10::complex<double>",
    torch.bool: "bool",
    torch.bfloat16: "c10::BFloat16",
}


def type_name(dtype: torch.dtype) -> str:
    """The C++ name of a dtype, as ATen's errors about outputs have it: float, long int, c10::Half."""
    return _TYPE_NAMES.get(dtype, str(dtype))


def summed_in(dtype: torch.dtype) -> torch.dtype:
    """What a sum of several parts is kept in: float32 for half types, int32 for narrow integers, else dtype."""
    return _SUMMED_IN.get(dtype, dtype)


def storage_of_code(code: int) -> Storage:
    """The row of a ScalarType number."""
    try:
        return _there(BY_CODE[code])
    except KeyError:
        raise NotImplementedError(
            f"Trying to use dtype number {code} on the MPS device, which this operator does not support"
        ) from None
