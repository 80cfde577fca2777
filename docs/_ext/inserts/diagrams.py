"""Diagrams."""

from __future__ import annotations

from pathlib import Path


def figure(root: Path, argument: str, page: str) -> str:
    """None yet."""
    return ""
