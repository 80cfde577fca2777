"""Words that tell a file from others: of its definitions, operators and purpose, weighed by how few files have them."""

from __future__ import annotations

import collections
import math
import re

from repository_pages.repository import File, Repository

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_STOP = frozenset(
    re.findall(
        r"\w+",
        """the and for with that what this which where when from are not has have its one two all any each other
        than then they them their also only into over same such more most less but can may must shall would does how
        who whose self none true false return returns int float bool str name names value values test tests args file
        out get set new make made use used uses see here there was were been being his her our ours will just between
        both like first last way own once under above after before while without within""",
    )
)
_MOST = 12
_SHORTEST = 3


def _words(text: str) -> list[str]:
    return [w.lower() for w in _WORD.findall(text) if len(w) >= _SHORTEST and w.lower() not in _STOP]


def counts_of(file: File) -> collections.Counter[str]:
    """How often each word stands where it says what the file is about."""
    counts: collections.Counter[str] = collections.Counter()
    for word in _words(file.stem):
        counts[word] += 4
    for definition in file.facts.walk():
        counts.update(_words(definition.name))
    for found in file.facts.registered:
        name = found.text.partition(".")[0].strip("_")
        if re.fullmatch(r"\w+", name):
            counts[name] += 2
    counts.update(_words(file.facts.purpose))
    return counts


def of_files(repository: Repository) -> dict[str, list[str]]:
    """The keywords of each file, the most telling first."""
    counts = {path: counts_of(file) for path, file in repository.files.items()}
    spread = collections.Counter(word for counter in counts.values() for word in counter)
    result = {}
    for path, counter in counts.items():
        weight = {w: n * math.log(len(counts) / spread[w]) for w, n in counter.items()}
        result[path] = sorted(weight, key=lambda word: (-weight[word], word))[:_MOST]
    return result


def index(keywords: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files of each keyword, by the alphabet."""
    result: dict[str, list[str]] = collections.defaultdict(list)
    for path, words in sorted(keywords.items()):
        for word in words:
            result[word].append(path)
    return dict(sorted(result.items()))
