"""What files have to do with each other: who imports whom, who launches, tests, times and names whom."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import posixpath
import re
import sqlite3
from pathlib import Path, PurePosixPath

from repository_pages.facts import Import
from repository_pages.repository import File, Options, Repository

_PATH = re.compile(r"[\w./-]+\.(?:pyi|py|cpp|h|slangh|slang|sh|md|toml)\b")
_COMMON = 12  # an operator that so many files of a kind use says little of each
_TOGETHER = 3  # commits that two files share before they count as related


@dataclasses.dataclass
class Relation:
    """Of one file to others: path, then what is said beside it."""

    imports: dict[str, list[Import]] = dataclasses.field(default_factory=dict)
    outside: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    importers: set[str] = dataclasses.field(default_factory=set)
    launches: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    launched_by: set[str] = dataclasses.field(default_factory=set)
    tests: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    benchmarks: dict[str, set[str]] = dataclasses.field(default_factory=dict)
    related: dict[str, list[str]] = dataclasses.field(default_factory=dict)


_read: dict[Path, tuple[Repository, Relations]] = {}


def read(root: Path, options: Options) -> tuple[Repository, Relations]:
    """The repository at `root` and its relations, read anew; kept for `last_read`."""
    repository = Repository(root, options)
    _read[root] = repository, Relations(repository)
    return _read[root]


def last_read(root: Path) -> tuple[Repository, Relations]:
    """What `read` returned last for this root, or what it returns with no options."""
    return _read.get(root) or read(root, Options())


class Relations:
    """`of[path]` for each file."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._files = repository.files
        self.of = {path: Relation() for path in self._files}
        self._modules = self._python_modules()
        self._by_name: dict[str, list[str]] = collections.defaultdict(list)
        for path in self._files:
            self._by_name[PurePosixPath(path).name].append(path)
        for file in self._files.values():
            for imported in file.facts.imports:
                self._resolve(file, imported)
        self._find_launches()
        self._find_tests()
        self._find_benchmarks()
        self._find_related()

    def _python_modules(self) -> dict[str, list[str]]:
        """Files by module name; folders above the outermost package are left out, as on Python's path."""
        result: dict[str, list[str]] = collections.defaultdict(list)
        for path in self._files:
            name = PurePosixPath(path)
            if name.suffix not in (".py", ".pyi"):
                continue
            parts = list(name.with_suffix("").parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            names = {".".join(parts)}
            while len(parts) > 1 and not any(f"{parts[0]}/__init__.{end}" in self._files for end in ("py", "pyi")):
                root = PurePosixPath(*name.parts[: len(name.parts) - len(parts) + 1])
                if str(root / "__init__.py") in self._files:
                    break
                parts = parts[1:]
                names.add(".".join(parts))
            for module in names - {""}:
                result[module].append(path)
        return result

    def _nearest(self, path: str, candidates: list[str]) -> str:
        """Of several files that an import may mean, the one with the longest way in common."""
        return max(candidates, key=lambda other: (len(posixpath.commonprefix([path, other])), -len(other)))

    def _resolve(self, file: File, imported: Import) -> None:
        found = self._python(file, imported) if file.language == "Python" else self._included(file, imported)
        relation = self.of[file.path]
        for target in found:
            if target != file.path:
                relation.imports.setdefault(target, []).append(imported)
                self.of[target].importers.add(file.path)
        if not found:
            whole = file.language != "Python"
            name = imported.target if whole else imported.target.partition(".")[0]
            if name:
                relation.outside.setdefault(name, set()).update(imported.names)

    def _python(self, file: File, imported: Import) -> list[str]:
        target = imported.target
        if target.startswith("."):
            up = len(target) - len(target.lstrip("."))
            package = PurePosixPath(file.path).parts[:-up]
            target = ".".join([*package, *filter(None, [target.lstrip(".")])])
        names = [f"{target}.{name}" for name in imported.names if f"{target}.{name}" in self._modules]
        if len(names) < max(1, len(imported.names)) and target in self._modules:
            names.append(target)
        return [self._nearest(file.path, self._modules[name]) for name in names]

    def _included(self, file: File, imported: Import) -> list[str]:
        target = imported.target
        if file.language == "Slang" and not target.endswith((".slang", ".slangh")):
            target = target.replace(".", "/") + ".slang"
        beside = posixpath.normpath(posixpath.join(file.folder, target))
        if beside in self._files:
            return [beside]
        candidates = [p for p in self._by_name[PurePosixPath(target).name] if f"/{p}".endswith(f"/{target}")]
        return [self._nearest(file.path, candidates)] if candidates else []

    def _find_launches(self) -> None:
        kernels: dict[tuple[str, str], str] = {}
        for path, file in self._files.items():
            for definition in file.facts.definitions:
                if definition.kind == "kernel":
                    parts = PurePosixPath(path).with_suffix("").parts
                    for first in range(len(parts)):
                        kernels.setdefault(("/".join(parts[first:]), definition.name), path)
        for path, file in self._files.items():
            for launch in file.facts.launches:
                target = kernels.get((launch.stem, launch.entry))
                if target is not None:
                    self.of[path].launches.setdefault(target, set()).add(launch.entry)
                    self.of[target].launched_by.add(path)

    def _find_tests(self) -> None:
        options = self._repository.options
        tests = [f for f in self._files.values() if self._repository.is_in(f.path, options.tests)]
        stems: dict[str, list[str]] = collections.defaultdict(list)
        for test in tests:
            if PurePosixPath(test.path).name.startswith("test_"):
                stems[test.stem].append(test.path)
        for path, file in self._files.items():
            if self._repository.is_in(path, options.tests) and file.path.rpartition("/")[2].startswith("test_"):
                continue
            covering = self.of[path].tests
            for test in stems.get(file.stem, ()):
                covering.setdefault(test, []).append("its name")
            for test in self.of[path].importers:
                if self._repository.is_in(test, options.tests):
                    covering.setdefault(test, []).append("imports it")
        for path, test in self._contexts():
            if path in self.of and test in self.of:
                self.of[path].tests.setdefault(test, []).append("coverage")

    def _contexts(self) -> set[tuple[str, str]]:
        """(file, test) of a data file of coverage.py with contexts, where there is one."""
        data = self._repository.root / ".coverage"
        found: set[tuple[str, str]] = set()
        if not data.is_file():
            return found
        query = "select distinct file.path, context.context from line_bits join file on file.id = line_bits.file_id "
        query += "join context on context.id = line_bits.context_id where context.context != ''"
        with contextlib.closing(sqlite3.connect(f"file:{data}?mode=ro", uri=True)) as connection:
            for path, context in connection.execute(query):
                test = context.partition("::")[0].partition("|")[0]
                with contextlib.suppress(ValueError):  # a file from elsewhere
                    found.add((str(PurePosixPath(path).relative_to(self._repository.root)), test))
        return found

    def _find_benchmarks(self) -> None:
        options = self._repository.options
        benchmarks = [f for f in self._files.values() if self._repository.is_in(f.path, options.benchmarks)]
        using: dict[str, list[str]] = collections.defaultdict(list)
        for benchmark in benchmarks:
            for name in benchmark.facts.used:
                using[name].append(benchmark.path)
        for path, file in self._files.items():
            if self._repository.is_in(path, [*options.benchmarks, *options.tests]):
                continue
            for found in file.facts.registered:
                name = found.text.partition(".")[0].strip("_")
                for benchmark in using.get(name, ()) if 0 < len(using.get(name, ())) <= _COMMON else ():
                    self.of[path].benchmarks.setdefault(benchmark, set()).add(name)
            for benchmark in self.of[path].importers:
                if self._repository.is_in(benchmark, options.benchmarks):
                    self.of[path].benchmarks.setdefault(benchmark, set())

    def _find_related(self) -> None:
        by_stem: dict[str, list[str]] = collections.defaultdict(list)
        for path, file in self._files.items():
            by_stem[file.stem].append(path)
        for path, file in self._files.items():
            related = self.of[path].related
            if file.stem and not file.stem.startswith("__"):
                for other in by_stem[file.stem]:
                    if other != path:
                        related.setdefault(other, []).append("the same name")
            for other, count in file.history.together.most_common(6):
                if count >= _TOGETHER and other in self._files:
                    related.setdefault(other, []).append(f"{count} commits in common")
        for path, file in self._files.items():
            for name in set(_PATH.findall(file.text or "")) if file.language != "Markdown" else ():
                target = posixpath.normpath(posixpath.join(file.folder, name))
                target = name if name in self._files else target
                if "/" in name and target in self._files and target != path:
                    self.of[path].related.setdefault(target, []).append("this file names it")
                    self.of[target].related.setdefault(path, []).append("names this file")
