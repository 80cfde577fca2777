"""The files that git tracks, with their history and their facts."""

from __future__ import annotations

import collections
import dataclasses
import functools
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from repository_pages import cpp_files, other_files, python_files, slang_files
from repository_pages.facts import Facts

# By the end of a name: language, and what Pygments calls it (Slang is closest to HLSL).
LANGUAGES = {
    ".py": ("Python", "python"),
    ".pyi": ("Python", "python"),
    ".cpp": ("C++", "cpp"),
    ".cc": ("C++", "cpp"),
    ".h": ("C++", "cpp"),
    ".hpp": ("C++", "cpp"),
    ".slang": ("Slang", "hlsl"),
    ".slangh": ("Slang", "hlsl"),
    ".md": ("Markdown", "markdown"),
    ".sh": ("Shell", "bash"),
    ".toml": ("TOML", "toml"),
    ".json": ("JSON", "json"),
    ".yml": ("YAML", "yaml"),
    ".yaml": ("YAML", "yaml"),
    ".css": ("CSS", "css"),
    "Makefile": ("Make", "make"),
}
_LARGE_COMMIT = 30  # files: what changes so many at once says little of what belongs together


@dataclasses.dataclass(frozen=True)
class Options:
    """What conf.py says of a repository."""

    layers: dict[str, str] = dataclasses.field(default_factory=dict)
    registrars: Sequence[str] = ()
    tests: Sequence[str] = ("tests",)
    benchmarks: Sequence[str] = ("benchmarks",)


@dataclasses.dataclass
class History:
    """Of a file: its commits, and the files that changed in the same ones."""

    commits: int = 0
    last: str = ""
    first: str = ""
    together: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass
class File:
    """A tracked file. text: None where it is not text."""

    path: str
    size: int
    text: str | None
    language: str
    lexer: str
    facts: Facts
    history: History

    @property
    def lines(self) -> int:
        """How many lines of text it has."""
        return len(self.text.splitlines()) if self.text is not None else 0

    @property
    def stem(self) -> str:
        """Its name without a suffix, and without what marks tests: softmax of test_softmax.py."""
        return PurePosixPath(self.path).name.partition(".")[0].removeprefix("test_")

    @property
    def folder(self) -> str:
        """The folder it is in, "" for the top."""
        return str(PurePosixPath(self.path).parent).removeprefix(".")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "-c", "core.quotePath=false", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tracked(root: Path) -> list[str]:
    """Paths that git tracks and that are there, sorted."""
    return sorted(path for path in _git(root, "ls-files", "-z").split("\0") if path and (root / path).is_file())


def _histories(root: Path) -> dict[str, History]:
    result: dict[str, History] = collections.defaultdict(History)
    log = _git(root, "log", "--no-merges", "--name-only", "--format=%x01%cs")
    for commit in log.split("\x01")[1:]:
        date, *paths = [line for line in commit.splitlines() if line]
        for path in paths:
            history = result[path]
            history.commits += 1
            history.last = history.last or date
            history.first = date
            if len(paths) <= _LARGE_COMMIT:
                history.together.update(other for other in paths if other != path)
    return result


def _facts(path: str, text: str, language: str, options: Options) -> Facts:
    if language == "Python":
        return python_files.read(text, options.registrars)
    if language == "C++":
        return cpp_files.read(text, options.registrars)
    if language == "Slang":
        return slang_files.read(text, options.registrars)
    if language == "Markdown":
        return other_files.read_markdown(text)
    return other_files.read_lines(text, PurePosixPath(path).name)


def _read(root: Path, path: str, options: Options, history: History) -> File:
    content = (root / path).read_bytes()
    name = PurePosixPath(path)
    language, lexer = LANGUAGES.get(name.suffix, LANGUAGES.get(name.name, ("", "text")))
    try:
        text = None if b"\0" in content else content.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and not language and text.startswith("#!") and "sh" in text.partition("\n")[0]:
        language, lexer = LANGUAGES[".sh"]
    facts = Facts() if text is None else _facts(path, text, language, options)
    return File(path, len(content), text, language or ("Text" if text is not None else "Binary"), lexer, facts, history)


class Repository:
    """All tracked files by their path."""

    def __init__(self, root: Path, options: Options) -> None:
        self.root = root
        self.options = options
        histories = _histories(root)
        self.files = {path: _read(root, path, options, histories.get(path, History())) for path in tracked(root)}

    @functools.cached_property
    def folders(self) -> dict[str, list[str]]:
        """Paths of the files of each folder, and of each that has folders only; "" is the top."""
        result: dict[str, list[str]] = {"": []}
        for path in self.files:
            for parent in PurePosixPath(path).parents:
                result.setdefault(str(parent).removeprefix("."), [])
            result[self.files[path].folder].append(path)
        return dict(sorted(result.items()))

    def layer(self, path: str) -> str:
        """What conf.py says of the innermost folder that it names; "" where it names none."""
        named = [folder for folder in self.options.layers if path == folder or path.startswith(folder + "/")]
        return self.options.layers[max(named, key=len)] if named else ""

    def is_in(self, path: str, folders: Sequence[str]) -> bool:
        """Whether a file is in one of these folders."""
        return any(path.startswith(folder + "/") for folder in folders)
