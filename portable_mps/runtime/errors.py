"""Errors that kernels report: one record in device memory, looked at when the host next waits for results.

The record is `ErrorWord` of kernels/lib/indexing.slang: uint32 code, uint32 axis, int64 index.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from portable_mps import _C

_USER = 1 << 31  # the codes of report_user_error in kernels/lib/indexing.slang
_RECORD = np.dtype([("code", np.uint32), ("axis", np.uint32), ("index", np.int64)])


class ErrorRecord:
    """The stream's error record. A kernel that checks indices takes `address` and a code from `arm`."""

    def __init__(self, stream: Any, slabs: Any) -> None:
        self._stream = stream
        self.address = slabs.create(4096)
        self._messages: dict[int, tuple[type[Exception], str]] = {}
        self._codes: dict[tuple[type[Exception], str], int] = {}
        self._clear()

    def _clear(self) -> None:
        self._stream.upload(self.address, np.zeros(1, _RECORD).view(np.uint8))

    def arm(self, message: str, kind: type[Exception] = IndexError) -> int:
        """The code to give to a kernel that is about to run; `message` may use {index} and {axis}."""
        _C.arm_errors()
        code = self._codes.get((kind, message))
        if code is None:
            code = self._codes[kind, message] = len(self._codes) + 1
            self._messages[code] = (kind, message)
        return code

    def arm_user_errors(self) -> None:
        """A kernel of torch.mps.compile_shader is about to run that may use `report_user_error`."""
        _C.arm_errors()

    def check(self) -> None:
        """Raise the first error reported since the last check, and clear the record."""
        if not _C.disarm_errors():
            return
        record = np.zeros(1, _RECORD)
        self._stream.download(self.address, record.view(np.uint8))
        code = int(record["code"][0])
        if code:
            self._clear()
            if code & _USER:
                raise torch.AcceleratorError(
                    f"a kernel of torch.mps.compile_shader reported error {code & ~_USER} ({int(record['index'][0])})"
                )
            kind, message = self._messages[code]
            raise kind(message.format(index=int(record["index"][0]), axis=int(record["axis"][0])))
