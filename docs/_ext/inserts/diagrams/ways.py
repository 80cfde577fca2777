"""The way of an operator and of a graph through the files.

The stations are listed here; that each is there, that one before it names it, and what it says of itself are read off
the code, so a way that the code no longer takes ends the build.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NamedTuple

from repository_pages.relations import Relations
from repository_pages.repository import Repository

from inserts.diagrams import svg

_COLUMN, _BOX_WIDTH, _BOX_HEIGHT, _STEP = 250, 226, 44, 66
_LANES = ("Python", "C++", "Slang")


class Station(NamedTuple):
    """A definition that the way passes."""

    path: str
    name: str


WAYS = {
    "operator": (
        Station("portable_mps/ops/unary.py", "_register_float"),
        Station("portable_mps/dispatch/pointwise.py", "register"),
        Station("csrc/pointwise.cpp", "PointwiseKernels::run"),
        Station("csrc/iterator.cpp", "plan_pointwise"),
        Station("portable_mps/dispatch/pointwise.py", "Pointwise.source"),
        Station("portable_mps/kernels/lib/maths.slang", "maths"),
        Station("portable_mps/runtime/kernel.py", "Compiler.compile"),
        Station("csrc/recorder.cpp", "Recorder::compile"),
        Station("csrc/compiler.cpp", "Compiler::start"),
        Station("csrc/front_end.cpp", "FrontEnd::compile"),
        Station("csrc/recorder.cpp", "Recorder::launch"),
        Station("csrc/hazards.cpp", "HazardTracker::access"),
        Station("portable_mps/runtime/stream.py", "Stream.poll"),
    ),
    "graph": (
        Station("portable_mps/compatibility/inductor.py", "generate_slang"),
        Station("portable_mps/inductor/scheduling.py", "SlangScheduling"),
        Station("portable_mps/inductor/kernel.py", "SlangKernel"),
        Station("portable_mps/inductor/overrides.py", "SlangOverrides"),
        Station("portable_mps/inductor/printer.py", "SlangPrinter"),
        Station("portable_mps/inductor/reductions.py", "geometry"),
        Station("portable_mps/kernels/lib/states.slangh", ""),
        Station("portable_mps/inductor/vectors.py", "Vectors"),
        Station("portable_mps/inductor/launch.py", "graph_kernel"),
        Station("portable_mps/runtime/kernel.py", "Compiler.compile"),
        Station("csrc/graph_kernel.cpp", "GraphKernel"),
        Station("csrc/recorder.cpp", "Recorder::launch"),
    ),
}


def _words(repository: Repository, station: Station) -> str:
    """What a station's definition says of itself, or its file. ValueError where there is none."""
    file = repository.files.get(station.path)
    if file is None:
        raise ValueError(f"a way leads through {station.path}, which is not there")
    definitions = file.facts.definitions
    words = file.facts.purpose
    for name in station.name.split(".") if station.name else ():
        found = next((d for d in definitions if d.name == name), None)
        if found is None:
            raise ValueError(f"a way leads through {station.name} of {station.path}, which is not there")
        words, definitions = found.words or words, found.members
    return " ".join(words.split())


def _names(repository: Repository, relations: Relations, a: Station, b: Station) -> bool:
    """Whether the file of `a` names `b`: its last name, or the file as an import does."""
    if b.path in relations.of[a.path].imports or a.path == b.path:
        return True
    if repository.files[a.path].language == "Slang":  # which names no file but by its imports
        return False
    text = repository.files[a.path].text or ""
    name = re.split(r"\.|::", b.name)[-1]
    module = PurePosixPath(b.path).with_suffix("").parts[-2:]
    named = bool(name) and re.search(rf"\b{re.escape(name)}\b", text) is not None
    return named or ".".join(module) in text or "/".join(module) in text


def _from(repository: Repository, relations: Relations, way: tuple[Station, ...], index: int) -> int:
    """The latest station before `index` that names it. ValueError where none does."""
    for earlier in range(index - 1, -1, -1):
        if _names(repository, relations, way[earlier], way[index]):
            return earlier
    raise ValueError(f"nothing on the way to {way[index].name} of {way[index].path} names it")


def draw(repository: Repository, relations: Relations, way: tuple[Station, ...], link: Callable[[str], str]) -> str:
    """The drawing: a lane for each language, a row for each station."""
    hints = [_words(repository, station) for station in way]
    lanes = [_LANES.index(repository.files[station.path].language) for station in way]
    boxes = []
    parts = [svg.text(_COLUMN * n + _BOX_WIDTH / 2, 12, lane) for n, lane in enumerate(_LANES)]

    def at(index: int) -> tuple[float, float]:
        return _COLUMN * lanes[index], 30 + _STEP * index

    for index, station in enumerate(way):
        x, y = at(index)
        lines = [f"{PurePosixPath(station.path).parent.name}/{PurePosixPath(station.path).name}", station.name]
        boxes.append(svg.box(x, y, _BOX_WIDTH, _BOX_HEIGHT, [line for line in lines if line], link(station.path),
                             hints[index]))  # fmt: skip
        if not index:
            continue
        before = _from(repository, relations, way, index)
        from_x, from_y = at(before)
        middle, start = x + _BOX_WIDTH / 2, from_x + _BOX_WIDTH / 2
        if lanes[before] == lanes[index] and before == index - 1:
            parts.append(svg.arrow(f"M {middle} {from_y + _BOX_HEIGHT} V {y - 6}", (middle, y), (0, 1)))
        elif lanes[before] == lanes[index]:  # past the stations between
            edge = x + _BOX_WIDTH
            bend = f"M {edge} {from_y + _BOX_HEIGHT / 2} h 12 V {y + _BOX_HEIGHT / 2} H {edge + 6}"
            parts.append(svg.arrow(bend, (edge, y + _BOX_HEIGHT / 2), (-1, 0)))
        else:
            right = lanes[index] > lanes[before]
            side = x if right else x + _BOX_WIDTH
            start = start + (30 if right else -30)
            head = side - 6 if right else side + 6
            bend = f"M {start} {from_y + _BOX_HEIGHT} V {y + _BOX_HEIGHT / 2} H {head}"
            parts.append(svg.arrow(bend, (side, y + _BOX_HEIGHT / 2), (1 if right else -1, 0)))
    height = 30 + _STEP * len(way)
    return svg.document(
        _COLUMN * (len(_LANES) - 1) + _BOX_WIDTH + 20, height, "The way through the files", parts + boxes
    )
