"""torch.mps here and on a Mac: what torch's Python package has before we are loaded, against what it has then."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

MODULES = ("torch.mps", "torch.mps.profiler", "torch.backends.mps")


def _functions_beneath(member: Any, module: Any, depth: int = 2) -> set[str]:
    """The `torch._C._mps_*` functions that a function of torch's calls, also through others of its module."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(member)))
    except (OSError, TypeError):
        return set()
    found = set()
    for node in ast.walk(tree):
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name.startswith("_mps_") or name == "_has_mps":
            found.add(name)
        elif depth and isinstance(node, ast.Name) and inspect.isfunction(getattr(module, name, None)):
            found |= _functions_beneath(getattr(module, name), module, depth - 1)
    return found


def _first_sentence(words: str) -> str:
    paragraph = " ".join(words.partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].removesuffix("Example::").rstrip(". ")


def described() -> dict[str, dict[str, Any]]:
    """Public functions and classes of MODULES in this process: signature, first sentence, what they call beneath."""
    result = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for key, member in sorted(vars(module).items()):
            own = str(getattr(member, "__module__", "")).startswith(("torch.mps", "torch.backends.mps", "portable_mps"))
            member = inspect.unwrap(member) if callable(member) else member  # of a cache
            if key.startswith("_") or not own or not (inspect.isfunction(member) or inspect.isclass(member)):
                continue
            try:
                signature = str(inspect.signature(member))
            except ValueError:
                signature = ""
            words = inspect.getdoc(member) or ""
            result[f"{name}.{key}"] = {
                "signature": signature.replace("'", ""),
                "words": _first_sentence(words),
                "beneath": sorted(_functions_beneath(member, module)),
                "ours": str(getattr(member, "__module__", "")).startswith("portable_mps"),
            }
    return result


def _in_process(root: Path, before: str) -> dict[str, dict[str, Any]]:
    code = f"{before}; import json, inserts.torch_mps as it; print(json.dumps(it.described()))"
    paths = os.pathsep.join((str(root / "docs" / "_ext"), str(root)))
    environment = os.environ | {"PYTHONPATH": paths, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _refusals() -> dict[str, str]:
    """What `torch._C` has for functions that need Metal: the words of the error that they raise."""
    import torch

    found = {}
    for name in dir(torch._C):
        function = getattr(torch._C, name)
        if name.startswith("_mps_") and "_needs_metal" in getattr(function, "__qualname__", ""):
            try:
                function()
            except NotImplementedError as error:
                found[name] = str(error)
    return found


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


def page(root: Path, argument: str, page: str) -> str:
    """A table for each module."""
    theirs = _in_process(root, "import torch")
    ours = _in_process(root, "import torch, portable_mps; portable_mps.autoload()")
    refused = _refusals()
    lines = []
    for module in MODULES:
        lines += [f"## `{module}`", "", "| name | on a Mac | here |", "| --- | --- | --- |"]
        for name in sorted(key for key in {**theirs, **ours} if key.rpartition(".")[0] == module):
            short = name.rpartition(".")[2]
            there, here = theirs.get(name), ours.get(name)
            mac = f"{_code(short + there['signature'])} {there['words']}" if there else "does not exist"
            if here is None:
                said = "does not exist"
            elif here["ours"]:
                said = f"{_code(short + here['signature'])} {here['words']}"
            else:
                said = "the same function"
                errors = [refused[beneath] for beneath in here["beneath"] if beneath in refused]
                if errors:
                    said = f"raises `NotImplementedError`: {errors[0]}"
                elif here["beneath"]:
                    said += ", over our " + ", ".join(_code(beneath) for beneath in here["beneath"])
            lines.append(f"| `{short}` | {mac} | {said} |")
        lines.append("")
    return "\n".join(lines)
