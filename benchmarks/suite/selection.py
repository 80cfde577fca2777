"""Which cases to run."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from suite.case import Case
from suite.families import FAMILIES


def select(families: Sequence[str], patterns: Sequence[str]) -> dict[str, Case]:
    """Cases by "family/name": of these families, or all, whose name, or that, matches one of the patterns."""
    found = {}
    for family in families or FAMILIES:
        for case in FAMILIES[family].CASES:
            key = f"{family}/{case.name}"
            if any(fnmatchcase(text, pattern) for text in (key, case.name) for pattern in patterns or ["*"]):
                found[key] = case
    return found
