"""The documentation: the site builds without a warning, its links lead somewhere, each file has a page, and what the
page about adding operators says works when it is followed."""

import contextlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "docs" / "_ext"))

import links  # noqa: E402
import recipe  # noqa: E402
from inserts import command_line, variables  # noqa: E402
from repository_pages import cpp_files, markdown, python_files, relations, repository, slang_files  # noqa: E402


def run(*command: str | Path, folder: Path = ROOT) -> str:
    environment = os.environ | {"PORTABLE_MPS": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=folder, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_site(tmp_path):
    """One test, since each worker of pytest would build a site of its own for another."""
    said = run(ROOT / "docs" / "build.py", "--out", tmp_path)
    assert " 0 of them broken" in said, said
    site = tmp_path / "html"
    missing = [path for path in repository.tracked(ROOT) if not (site / "repository" / f"{path}.html").is_file()]
    assert not missing
    assert (site / "repository" / "csrc" / "index.html").is_file()
    settings = (site / "reference" / "variables.html").read_text()
    for names, *_ in variables.rows(ROOT):
        assert all(name in settings for name in names)
    assert "portable-mps profile" in (site / "reference" / "command-line.html").read_text()
    assert "device='mps:0'" in (site / "guide" / "first-script.html").read_text().replace("&#39;", "'")
    softmax = (site / "repository" / "portable_mps" / "kernels" / "softmax.slang.html").read_text()
    assert "../ops/softmax.py.html" in softmax, "the file that launches a kernel"
    assert 'id="L-1"' in softmax
    index = (site / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(") and "softmax" in index


def test_markdown_files(tmp_path):
    """Built in a process of its own: docs/conf.py sets variables of the environment."""
    run(ROOT / "docs" / "build.py", "--markdown", "--out", tmp_path / "site")
    pages = tmp_path / "site-markdown"
    for path in repository.tracked(ROOT):
        assert (pages / f"{path}_docs.md").is_file() and (pages / f"{path}_kw.md").is_file()
    for folder in ("", "csrc", "portable_mps/ops"):
        assert (pages / folder / "index.md").is_file() and (pages / folder / "doc.md").is_file()
    for page in pages.rglob("*.md"):
        text = re.sub(r"(`+).*?\1", "", page.read_text(), flags=re.DOTALL)
        for target in set(re.findall(r"\]\(([^)#]+)", text)):
            assert (page.parent / target).exists(), f"{page}: broken link to {target}"
    text = (pages / "portable_mps/ops/softmax.py_docs.md").read_text()
    assert "softmax.slang_docs.md" in text and "_masked_softmax" in text and "test_softmax.py" in text


def test_relations_in_any_repository(tmp_path):
    files = {
        "pack/__init__.py": "",
        "pack/neg.py": '"""Negatives."""\n\nfrom pack import low\n\nKERNEL = low.Kernel("neg", "negate")\n\n'
        '@made("neg.out")\n'
        "def neg(x):\n    return -x\n",
        "pack/low.py": "import ctypes\n\nclass Kernel:\n    pass\n",
        "pack/shaders/neg.slang": '#include "common.slangh"\n[shader("compute")]\nvoid negate()\n{\n}\n',
        "pack/shaders/common.slangh": "// Common.\n",
        "src/a.cpp": '#include "a.h"\n#include <map>\n',
        "src/a.h": "#pragma once\n",
        "tests/test_neg.py": "import pack.neg\n",
        "tests/test_low.py": "def test():\n    pass\n",
        "bench/run.py": "import torch\n\ntorch.neg(1)\n",
        "picture.png": "\0",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*identity, "commit", "-qm", "All")):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    with contextlib.closing(sqlite3.connect(tmp_path / ".coverage")) as data:
        data.executescript(
            "create table file (id, path); create table context (id, context);"
            "create table line_bits (file_id, context_id);"
            f"insert into file values (1, '{tmp_path}/pack/neg.py'); insert into line_bits values (1, 1);"
            "insert into context values (1, 'tests/test_low.py::test|run');"
        )
    options = repository.Options(registrars=("made",), tests=("tests",), benchmarks=("bench",))
    of = relations.Relations(repository.Repository(tmp_path, options)).of
    neg = of["pack/neg.py"]
    assert set(neg.imports) == {"pack/low.py"} and of["pack/low.py"].importers == {"pack/neg.py"}
    assert neg.launches == {"pack/shaders/neg.slang": {"negate"}}
    assert neg.tests == {"tests/test_neg.py": ["its name", "imports it"], "tests/test_low.py": ["coverage"]}
    assert neg.benchmarks == {"bench/run.py": {"neg"}}
    assert set(of["pack/low.py"].outside) == {"ctypes"} and set(of["src/a.cpp"].outside) == {"map"}
    assert set(of["src/a.cpp"].imports) == {"src/a.h"}
    assert set(of["pack/shaders/neg.slang"].imports) == {"pack/shaders/common.slangh"}
    assert markdown.write(tmp_path, options, tmp_path / "out") == 2 * len(files) + 2 * 6 + 1
    page = (tmp_path / "out" / "pack" / "neg.py_docs.md").read_text()
    assert "## Performance" in page and "## Patterns" in page and "## Security and safety" not in page
    assert "## Purpose" not in (tmp_path / "out" / "picture.png_docs.md").read_text()


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#there">b</a><a href="#top">a</a>')
    (tmp_path / "b.html").write_text('<p id="here"></p><a href="c.html">c</a><a href="https://example.org/">e</a>')
    assert links.check(tmp_path) == (2, 3, [("a.html", "b.html#there"), ("b.html", "c.html")])


def test_facts_of_python():
    facts = python_files.read(
        '"""Purpose."""\nimport ctypes\n@implements("neg.out")\ndef neg(x: int) -> int:\n    """Words."""\n'
        '    if x.data_ptr():\n        raise ValueError("no")\n    return Template("stem", "entry", "Q")\n',
        {"implements"},
    )
    assert facts.purpose == "Purpose." and [found.text for found in facts.registered] == ["neg.out"]
    assert [(d.kind, d.signature, d.words) for d in facts.definitions] == [("function", "neg(x: int) -> int", "Words.")]
    assert [found.line for found in facts.checks] == [7] and [found.line for found in facts.memory] == [6]
    assert [(launch.stem, launch.entry) for launch in facts.launches] == [("stem", "entry")]


def test_facts_of_cpp():
    facts = cpp_files.read(
        '// Purpose.\n#include <map>\n#include "a.h"\n\nnamespace n {\n// Words.\ntemplate <typename T>\n'
        "int f(T x) { TORCH_CHECK(x > 0); return *reinterpret_cast<int*>(x); }\nstruct S {\n  void g();\n};\n}\n",
        (),
    )
    assert facts.purpose == "Purpose."
    assert [(imported.target, imported.is_system) for imported in facts.imports] == [("map", True), ("a.h", False)]
    assert [(d.kind, d.name) for d in facts.walk()] == [("function", "f"), ("struct", "S"), ("method", "g")]
    assert facts.definitions[0].words == "Words." and "Templates" in facts.patterns
    assert [found.line for found in facts.checks] == [8] and [found.line for found in facts.memory] == [8]


def test_facts_of_slang():
    facts = slang_files.read(
        "// Purpose.\nimport lib.dtypes;\n\n// Words.\nstruct Params\n{\n    T* input;\n    int n;\n    int twice() "
        "{ if (n > 0) { return 2 * n; } return 0; }\n};\n\n#if WIDE\n#endif\n"
        '[shader("compute")] [numthreads(64, 1, 1)]\nvoid main(uint lane : SV_GroupIndex, PARAMS p)\n{\n}\n',
        (),
    )
    assert [imported.target for imported in facts.imports] == ["lib.dtypes"]
    assert [(d.kind, d.name, d.line) for d in facts.walk()] == [
        ("struct", "Params", 5),
        ("function", "twice", 9),
        ("kernel", "main", 14),
    ]
    assert facts.definitions[0].words == "Words." and facts.definitions[0].end == 10
    assert [found.text for found in facts.patterns["Variants, by definitions from outside"]] == ["WIDE"]
    assert [found.line for found in facts.memory] == [7]


def test_every_command_is_described():
    text = command_line.page(ROOT, "", "")
    for command in ("info", "doctor", "profile", "cache warm", "tune"):
        assert f"`portable-mps {command}`" in text


@pytest.mark.slow
def test_recipe_for_operators(tmp_path):
    """Makes the page's changes in a copy of the package, and runs the tests that it says to write."""
    skipped = shutil.ignore_patterns("__pycache__", "spirv")
    shutil.copytree(ROOT / "portable_mps", tmp_path / "portable_mps", ignore=skipped)
    for name in ("pyproject.toml", "tests/support.py", "tests/conftest.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    steps = recipe.steps((ROOT / "docs" / "made" / "adding.md").read_text())
    for step in steps:
        recipe.apply(step, tmp_path)
    tests = [step.path for step in steps if step.path.startswith("tests/")]
    assert len(tests) == 3
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, folder=tmp_path)
    assert "passed" in said and "skipped" not in said, said


def test_recipe_fails_where_the_code_has_changed(tmp_path):
    (tmp_path / "list.py").write_text("a\nb\n")
    with pytest.raises(ValueError, match="0 times"):
        recipe.apply(recipe.Step("change", "list.py", "-c\n+d\n"), tmp_path)
    recipe.apply(recipe.Step("change", "list.py", "-b\n+c\n+b\n"), tmp_path)
    assert (tmp_path / "list.py").read_text() == "a\nc\nb\n"
