"""What imports what: the layers of the package under each other, an arc for each pair, as wide as it has imports."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable

from repository_pages.relations import Relations
from repository_pages.repository import Repository

from inserts.diagrams import svg

_BOX_WIDTH, _BOX_HEIGHT, _STEP = 190, 34, 58
_THIRD = 0.35
_EXTENSION = "csrc"  # the sources of the extension, which Python knows by its stub


def _layer(path: str) -> str:
    if path.startswith("csrc/") or path.endswith("_C.pyi"):
        return _EXTENSION
    if path.startswith("portable_mps/kernels/lib/"):
        return "portable_mps/kernels/lib"
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else parts[0]


def counts(repository: Repository, relations: Relations) -> dict[tuple[str, str], int]:
    """How many files of one layer import, or launch, files of another."""
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for path in repository.files:
        if not path.startswith(("portable_mps/", "csrc/")):
            continue
        for target in {*relations.of[path].imports, *relations.of[path].launches}:
            pair = _layer(path), _layer(target)
            if pair[0] != pair[1] and target.startswith(("portable_mps/", "csrc/")):
                found[pair] += 1
    return dict(found)


def order(edges: dict[tuple[str, str], int]) -> list[str]:
    """Layers from the top down, with few imports that go up: each time the one that the rest imports least."""
    left = {layer for pair in edges for layer in pair}
    result = []
    while left:
        rest = left

        def weight(layer: str, rest: set[str] = rest) -> tuple[int, int, str]:
            into = sum(n for (a, b), n in edges.items() if b == layer and a in rest)
            out = sum(n for (a, b), n in edges.items() if a == layer and b in rest)
            return into, -out, layer

        result.append(min(left, key=weight))
        left = left - {result[-1]}
    return result


def draw(repository: Repository, relations: Relations, link: Callable[[str], str]) -> str:
    """The drawing. link: the address of a folder's page."""
    edges = counts(repository, relations)
    layers = order(edges)
    place = {layer: n for n, layer in enumerate(layers)}
    reach = 24 * len(layers)
    left, height = reach + 10, _STEP * len(layers)
    parts, counted = [], []
    for (a, b), number in sorted(edges.items()):
        down = place[b] > place[a]
        x = left + _BOX_WIDTH if down else left
        side = 1 if down else -1
        far = side * (20 + 20 * abs(place[b] - place[a]))
        y1 = place[a] * _STEP + _BOX_HEIGHT / 2 + 6
        y2 = place[b] * _STEP + _BOX_HEIGHT / 2 - 2
        curve = f"M {x} {y1:.0f} C {x + far} {y1:.0f} {x + far} {y2:.0f} {x + 6 * side} {y2:.0f}"
        parts.append(svg.arrow(curve, (x, y2), (-side, 0), 1 + math.log2(number) / 2))
        # A third of the way along the curve, where few others are.
        at_x, at_y = x + far * 3 * _THIRD * (1 - _THIRD), y1 + (y2 - y1) * _THIRD * _THIRD * (3 - 2 * _THIRD)
        counted.append(svg.text(at_x, at_y, str(number), kind="count"))
    parts += counted
    for layer in layers:
        files = sum(_layer(path) == layer for path in repository.files)
        parts.append(
            svg.box(left, place[layer] * _STEP, _BOX_WIDTH, _BOX_HEIGHT, [layer], link(layer), f"{files} files")
        )
    return svg.document(left + _BOX_WIDTH + reach, height, "Which layers import which", parts)
