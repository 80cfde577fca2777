"""What a search found to be the fastest tile for a class of products, remembered on disk by adapter and driver.

The file is `tiles.json` in the device's cache folder, whose name has adapter and driver.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from portable_mps.runtime import device

if TYPE_CHECKING:
    from portable_mps.dispatch.tiles import Choice, Shape

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
            _table = {} if folder is None else json.loads((folder / "tiles.json").read_text())
        except (OSError, ValueError):  # none yet, or cut short
            _table = {}
    return _table


def remembered(shape: Shape, offers: Sequence[Choice]) -> Choice | None:
    """The measured best of `offers`, None where the class of `shape` was not measured."""
    name = _load().get(_key(shape, offers[0].tile.engine))
    return next((choice for choice in offers if _name(choice) == name), None)


def remember(shape: Shape, choice: Choice) -> None:
    """Keep `choice` for the class of `shape`; also on disk, where there is a cache folder."""
    table = _load()
    table[_key(shape, choice.tile.engine)] = _name(choice)
    folder = device.current().cache_folder
    if folder is not None:
        (folder / "tiles.json").write_text(json.dumps(table, indent=1, sort_keys=True))
