"""Slang's compiler without a device: a kernel's text to SPIR-V, or to Metal's language.

The same calls with the same options as csrc/front_end.cpp, by the places of methods in slang.h (csrc/slang.h), so that
the SPIR-V is what the device gets: tests/test_vendors.py compares them.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

SPIRV, METAL = 6, 24
PROFILE = "sm_6_0"  # what slangpy finds in a device that it was handed
_PRECISE = 2  # SLANG_FLOATING_POINT_MODE_PRECISE
_GENERATE_DIRECTLY = 1 << 10
_MODULES_A_SESSION = 128  # which keeps every one of them
_INCLUDE, _BY_ROWS, _NO_WARNING, _FLOATS, _DEBUG, _OPTIMIZATION, _SCALAR_LAYOUT, _INVERSION = (
    6, 9, 22, 43, 44, 46, 55, 105,
)  # fmt: skip


class _Value(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("integers", ctypes.c_int32 * 2), ("strings", ctypes.c_char_p * 2)]


class _Option(ctypes.Structure):
    _fields_ = [("name", ctypes.c_int), ("value", _Value)]


class _Target(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("format", ctypes.c_int),
        ("profile", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("floats", ctypes.c_uint32),
        ("lines", ctypes.c_uint32),
        ("scalar_layout", ctypes.c_bool),
        ("options", ctypes.c_void_p),
        ("option_count", ctypes.c_uint32),
    ]


class _Session(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_size_t),
        ("targets", ctypes.c_void_p),
        ("target_count", ctypes.c_int64),
        ("flags", ctypes.c_uint32),
        ("matrix_layout", ctypes.c_uint32),
        ("search_paths", ctypes.c_void_p),
        ("search_path_count", ctypes.c_int64),
        ("macros", ctypes.c_void_p),
        ("macro_count", ctypes.c_int64),
        ("file_system", ctypes.c_void_p),
        ("effects", ctypes.c_bool),
        ("glsl", ctypes.c_bool),
        ("options", ctypes.c_void_p),
        ("option_count", ctypes.c_uint32),
        ("skip_validation", ctypes.c_bool),
    ]


class _Global(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("api", ctypes.c_uint32),
        ("language", ctypes.c_uint32),
        ("glsl", ctypes.c_bool),
        ("reserved", ctypes.c_uint32 * 16),
    ]


def _option(name: int, value: int | str) -> _Option:
    option = _Option(name=name)
    if isinstance(value, str):
        option.value.kind, option.value.strings[0] = 1, value.encode()
    else:
        option.value.integers[0] = value
    return option


def _call(this: int, place: int, result: Any, *arguments: Any) -> Any:
    """Method number `place` of one of Slang's objects."""
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    kinds = [type(argument) for argument in arguments]
    return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *kinds)(table[place])(this, *arguments)


def _release(this: Any) -> None:
    if this:
        _call(this.value if isinstance(this, ctypes.c_void_p) else this, 2, ctypes.c_uint32)


def _bytes(blob: int) -> bytes:
    start = _call(blob, 3, ctypes.c_void_p)
    return ctypes.string_at(start, _call(blob, 4, ctypes.c_size_t))


_Out = ctypes.POINTER(ctypes.c_void_p)


def _out(holder: ctypes.c_void_p) -> Any:
    return ctypes.cast(ctypes.byref(holder), _Out)


class FrontEnd:
    """Compiles for one target. include: the folder of the shared shader library."""

    def __init__(self, include: Path, target: int = SPIRV, profile: str = PROFILE) -> None:
        import slangpy

        library = sorted(Path(slangpy.__file__).parent.glob("*slang-compiler*"))[0]
        create = ctypes.CDLL(str(library)).slang_createGlobalSession2
        description = _Global(size=ctypes.sizeof(_Global), language=2025)
        made = ctypes.c_void_p()
        if create(ctypes.byref(description), ctypes.byref(made)) < 0:
            raise RuntimeError("Slang's compiler did not start")
        self._global, self._session, self._modules = made.value, None, 0
        self._include, self._target = include, target
        number = _call(self._global, 4, ctypes.c_uint32, ctypes.c_char_p(profile.encode()))
        of_target = (_Option * 2)(_option(_FLOATS, _PRECISE), _option(_SCALAR_LAYOUT, 1))
        of_session = (_Option * 6)(
            _option(_BY_ROWS, 1),
            _option(_NO_WARNING, "30856"),
            _option(_DEBUG, 0),
            _option(_OPTIMIZATION, 1),
            _option(_INVERSION, 1),
            _option(_INCLUDE, str(include)),
        )
        targets = _Target(
            size=ctypes.sizeof(_Target),
            format=target,
            profile=number,
            flags=_GENERATE_DIRECTLY if target == SPIRV else 0,
            floats=_PRECISE,
            scalar_layout=True,
            options=ctypes.cast(of_target, ctypes.c_void_p),
            option_count=len(of_target),
        )
        self._description = _Session(
            size=ctypes.sizeof(_Session),
            targets=ctypes.cast(ctypes.pointer(targets), ctypes.c_void_p),
            target_count=1,
            matrix_layout=1,
            options=ctypes.cast(of_session, ctypes.c_void_p),
            option_count=len(of_session),
        )
        self._kept = (of_target, of_session, targets)

    def compile(self, text: str, entry: str) -> bytes:
        """The code of an entry point, which is called "main" in SPIR-V. RuntimeError with the compiler's words."""
        if self._session is None or self._modules == _MODULES_A_SESSION:
            _release(self._session)
            session = ctypes.c_void_p()
            if _call(self._global, 3, ctypes.c_int32, ctypes.pointer(self._description), _out(session)) < 0:
                raise RuntimeError("Slang's compiler gave no session")
            self._session, self._modules = session.value, 0
        self._modules += 1
        number = str(self._modules)
        said = ctypes.c_void_p()
        owned: list[ctypes.c_void_p] = []
        try:
            words = ctypes.c_char_p(f"// {number}\n{text}".encode())
            name = ctypes.c_char_p(f"kernel{number}".encode())
            module = _call(self._session, 20, ctypes.c_void_p, name, ctypes.c_char_p(None), words, _out(said))
            if not module:
                raise RuntimeError(_words(said))
            point = _made(owned, module, 17, ctypes.c_char_p(entry.encode()))
            parts = (ctypes.c_void_p * 2)(module, point)
            pointer = ctypes.cast(parts, _Out)
            program = _made(owned, self._session, 6, pointer, ctypes.c_int64(2), said=said)
            linked = _made(owned, program, 10, said=said)
            code = _made(owned, linked, 6, ctypes.c_int64(0), ctypes.c_int64(0), said=said)
            return _bytes(code)
        finally:
            for each in [*reversed(owned), said]:
                _release(each)


def _made(owned: list[ctypes.c_void_p], this: int, place: int, *arguments: Any, said: Any = None) -> int:
    """What a method makes, released with `owned`."""
    holder = ctypes.c_void_p()
    more = () if said is None else (_out(said),)
    status = _call(this, place, ctypes.c_int32, *arguments, _out(holder), *more)
    if holder.value:
        owned.append(holder)
    if status < 0 or not holder.value:
        raise RuntimeError(_words(said))
    return holder.value


def _words(said: ctypes.c_void_p | None) -> str:
    return _bytes(said.value).decode(errors="replace") if said is not None and said.value else "nothing was said"
