"""The dtypes of torch's operator database: in which class they are counted, and their short names."""

from __future__ import annotations

import torch

CLASSES = {
    "basic": ("float32", "float16", "bfloat16", "bool", "int64", "int32", "int16", "int8", "uint8"),
    "wide": ("float64", "complex64", "complex128", "complex32"),
    "rare": ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
}
DTYPES = [getattr(torch, name) for names in CLASSES.values() for name in names]
TITLES = {
    "basic": "bool, integers, float16, bfloat16, float32",
    "wide": "float64 and complex",
    "rare": "wide unsigned integers, float8",
}
SHORT = {
    "bool": "b8",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float8_e4m3fn": "e4m3fn",
    "float8_e4m3fnuz": "e4m3fnuz",
    "float8_e5m2": "e5m2",
    "float8_e5m2fnuz": "e5m2fnuz",
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "complex32": "c32",
    "complex64": "c64",
    "complex128": "c128",
}
