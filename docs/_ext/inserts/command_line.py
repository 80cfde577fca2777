"""The command line, from the parser that `portable_mps.__main__` builds."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from unittest import mock


class _Built(Exception):
    pass


def parser() -> argparse.ArgumentParser:
    """The parser of `portable-mps`: what `main` would parse its arguments with."""
    built: list[argparse.ArgumentParser] = []

    def stop(self: argparse.ArgumentParser, *arguments: object) -> None:
        built.append(self)
        raise _Built

    main = importlib.import_module("portable_mps.__main__").main
    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            main([])
        except _Built:
            return built[0]
    raise RuntimeError("portable_mps.__main__.main parsed no arguments")


def _section(command: argparse.ArgumentParser, help: str, depth: int) -> list[str]:
    usage = command.format_usage()
    lines = [f"{'#' * depth} `{command.prog}`", "", _sentence(help), "", "```text", usage.rstrip(), "```", ""]
    plain, nested = [], []
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            nested += [(sub, helps.get(name, "")) for name, sub in action.choices.items()]
        elif not isinstance(action, argparse._HelpAction):
            plain.append(action)
    if plain:
        lines += ["| argument | meaning |", "| --- | --- |"]
        for action in plain:
            names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            value = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
            lines.append(f"| `{names}{value}` | {action.help or ''} |")
        lines.append("")
    for sub, words in nested:
        lines += _section(sub, words, depth + 1)
    return lines


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("." if text and not text.endswith(".") else "")


def page(root: Path, argument: str, page: str) -> str:
    """A section for the program and for each of its commands."""
    with mock.patch.dict(os.environ, {"COLUMNS": "90"}):
        whole = parser()
        return "\n".join(_section(whole, whole.description or "", 2))
