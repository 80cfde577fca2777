"""What a search found to be the fastest tile for a class of products, remembered on disk by adapter and driver.

The file is `tiles.json` in the device's cache folder, whose name has adapter and driver.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from portable_mps import settings
from portable_mps.dispatch import engines
from portable_mps.runtime import device

if TYPE_CHECKING:
    from portable_mps.dispatch.tiles import Choice, Shape

_WORTH = 1 << 28  # multiply-adds from which a product takes longer than its launch
_SEARCHED = (torch.float32, torch.float16, torch.bfloat16)
_table: dict[str, list[int]] | None = None


def _key(shape: Shape, engine: str) -> str:
    return " ".join(str(part) for part in (engine, *shape.tile_class))


def _name(choice: Choice) -> list[int]:
    """What tells an engine's choices apart."""
    return [choice.tile.m, choice.tile.n, choice.tile.k, choice.tile.threads, choice.splits]


def _load() -> dict[str, list[int]]:
    global _table
    if _table is None:
        folder = device.current().cache_folder
        try:
            _table = {} if folder is None else dict(json.loads((folder / "tiles.json").read_text()))
        except (OSError, ValueError):  # there is none, or it is not ours
            _table = {}
    return _table


def pays(shape: Shape, engine: str) -> bool:
    """Whether to search for the tile of `shape` before its first product on `engine`: where that was asked for, it is
    large, and the search's own products, of two operands of its dtype, run on that engine."""
    large = shape.batch * shape.m * shape.n * shape.k >= _WORTH
    return settings.tunes() and large and shape.dtype in _SEARCHED and engine == engines.engine_for(shape.dtype)


def remembered(shape: Shape, offers: Sequence[Choice]) -> Choice | None:
    """The measured best of `offers`, None where the class of `shape` was not measured."""
    name = _load().get(_key(shape, offers[0].tile.engine))
    return next((choice for choice in offers if _name(choice) == name), None)


def remember(shape: Shape, choice: Choice, on_disk: bool = True) -> None:
    """Take `choice` for the class of `shape` from now on; on_disk: in later processes, too, if there is a cache."""
    table = _load()
    table[_key(shape, choice.tile.engine)] = _name(choice)
    folder = device.current().cache_folder
    if on_disk and folder is not None:
        # Whole or not at all: other processes may be reading.
        partial = folder / f"tiles.{os.getpid()}.json"
        partial.write_text(json.dumps(table, sort_keys=True))
        partial.replace(folder / "tiles.json")


def forget(shape: Shape) -> None:
    """Take the model's choice for the class of `shape` again, in this process."""
    table = _load()
    for engine in engines.ENGINES:
        table.pop(_key(shape, engine), None)
