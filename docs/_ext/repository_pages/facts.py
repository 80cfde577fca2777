"""What is read off a file, in whatever language it is written."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Definition:
    """Something that a file defines, with what it says of itself and what it has inside."""

    kind: str
    name: str
    signature: str
    line: int
    words: str = ""
    end: int = 0
    members: list[Definition] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Found:
    """A place in a file: its line and the text that stands there, or stands for it."""

    line: int
    text: str


@dataclasses.dataclass(frozen=True)
class Import:
    """What a file imports or includes, as it names it; names: what it takes from there."""

    line: int
    target: str
    names: tuple[str, ...] = ()
    is_system: bool = False


@dataclasses.dataclass(frozen=True)
class Launch:
    """A kernel that a file names: the stem of its file and its entry point."""

    line: int
    stem: str
    entry: str


@dataclasses.dataclass
class Facts:
    """All that the pages say of a file's content. Empty where its language has no reader."""

    purpose: str = ""
    definitions: list[Definition] = dataclasses.field(default_factory=list)
    imports: list[Import] = dataclasses.field(default_factory=list)
    registered: list[Found] = dataclasses.field(default_factory=list)
    patterns: dict[str, list[Found]] = dataclasses.field(default_factory=dict)
    launches: list[Launch] = dataclasses.field(default_factory=list)
    checks: list[Found] = dataclasses.field(default_factory=list)
    memory: list[Found] = dataclasses.field(default_factory=list)
    used: set[str] = dataclasses.field(default_factory=set)
    comment_lines: int = 0

    def walk(self) -> list[Definition]:
        """Every definition, also those within others."""
        result: list[Definition] = []
        waiting = list(reversed(self.definitions))
        while waiting:
            result.append(waiting.pop())
            waiting += reversed(result[-1].members)
        return result

    def add_pattern(self, kind: str, line: int, text: str) -> None:
        """Note a pattern of this kind."""
        self.patterns.setdefault(kind, []).append(Found(line, text))


def shortened(text: str, most: int = 110) -> str:
    """`text` on one line, cut where it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
