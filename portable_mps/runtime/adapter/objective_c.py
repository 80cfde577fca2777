"""Messages to objects of Apple's frameworks, through the C interface of the Objective-C runtime."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

_RUNTIME = "/usr/lib/libobjc.A.dylib"
_METAL = "/System/Library/Frameworks/Metal.framework/Metal"


@functools.cache
def _runtime() -> ctypes.CDLL:
    library = ctypes.CDLL(_RUNTIME)
    library.sel_registerName.restype = ctypes.c_void_p
    library.sel_registerName.argtypes = [ctypes.c_char_p]
    return library


def send(receiver: int, selector: str, result: Any = ctypes.c_uint64) -> Any:
    """The answer, of the ctypes type `result`, to a message without arguments."""
    runtime = _runtime()
    # objc_msgSend is called as the method is declared: each type of an answer is a prototype of its own.
    prototype = ctypes.CFUNCTYPE(result, ctypes.c_void_p, ctypes.c_void_p)
    address = ctypes.cast(runtime.objc_msgSend, ctypes.c_void_p).value or 0
    return prototype(address)(receiver, runtime.sel_registerName(selector.encode()))


def text(string: int) -> str:
    """That of an NSString."""
    return (send(string, "UTF8String", ctypes.c_char_p) or b"").decode(errors="replace")


def default_metal_device() -> int:
    """The MTLDevice that Metal prefers, or 0. OSError where there is no Metal."""
    create = ctypes.CDLL(_METAL).MTLCreateSystemDefaultDevice
    create.restype = ctypes.c_void_p
    return create() or 0
