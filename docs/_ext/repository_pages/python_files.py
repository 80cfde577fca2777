"""Facts of Python, from `ast`."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Container

from repository_pages.facts import Definition, Facts, Found, Import, Launch, shortened

_MEMORY = {"data_ptr", "ctypes", "from_address", "from_buffer", "frombuffer", "memoryview", "mmap", "untyped_storage"}
_PROCESSES = {"eval", "exec", "subprocess", "Popen", "pickle"}
_PLAIN_DECORATORS = {"property", "staticmethod", "classmethod", "overload"}


def read(text: str, registrars: Container[str]) -> Facts:
    """Of a file's text. registrars: functions whose text arguments name the operators that they register."""
    tree = ast.parse(text)
    facts = Facts(purpose=ast.get_docstring(tree) or "", definitions=_definitions(tree.body))
    own = {definition.name for definition in facts.definitions}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            facts.imports += [Import(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            target = "." * node.level + (node.module or "")
            facts.imports.append(Import(node.lineno, target, tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Call):
            _read_call(node, facts, registrars, own)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            facts.checks.append(Found(node.lineno, shortened("raise " + ast.unparse(node.exc))))
        elif isinstance(node, ast.Assert):
            facts.checks.append(Found(node.lineno, shortened(ast.unparse(node))))
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            _read_shape(node, facts, registrars)
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = node.id if isinstance(node, ast.Name) else node.attr
            facts.used.add(name)
            if name in _MEMORY or name in _PROCESSES:
                facts.memory.append(Found(node.lineno, _line(text, node.lineno)))
    facts.imports.sort(key=lambda found: found.line)
    facts.memory = sorted(set(facts.memory), key=lambda found: found.line)
    facts.checks.sort(key=lambda found: found.line)
    facts.comment_lines = sum(
        token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )
    return facts


def _line(text: str, number: int) -> str:
    return shortened(text.splitlines()[number - 1])


def _called(node: ast.expr) -> str:
    """The last name of what is called: "register" of `registry.register`."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr) -> list[str]:
    """The text that an argument is or holds; a formatted one as it is written."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [ast.unparse(node)[2:-1]]
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return [text for item in node.elts for text in _texts(item)]
    return _texts(node.value) if isinstance(node, ast.Starred) else []


def _read_call(node: ast.Call, facts: Facts, registrars: Container[str], own: set[str]) -> None:
    name = _called(node.func)
    texts = [text for argument in node.args for text in _texts(argument)]
    if name in registrars:
        facts.registered += [Found(node.lineno, text.partition("(")[0]) for text in texts if " " not in text[:40]]
    constants = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
    if len(constants) >= 2 and isinstance(constants[0], str) and isinstance(constants[1], str):
        facts.launches.append(Launch(node.lineno, constants[0], constants[1]))
    for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
        if isinstance(argument, ast.Name) and argument.id in own and name not in ("isinstance", "issubclass"):
            facts.add_pattern("Functions and classes handed on", node.lineno, f"{argument.id} to {name or 'a call'}")
        elif isinstance(argument, ast.Lambda):
            facts.add_pattern("Functions and classes handed on", node.lineno, f"a lambda to {name or 'a call'}")


def _read_shape(node: ast.FunctionDef | ast.ClassDef, facts: Facts, registrars: Container[str]) -> None:
    for decorator in node.decorator_list:
        name = _called(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if name not in _PLAIN_DECORATORS and name not in registrars:
            facts.add_pattern("Decorated", node.lineno, shortened(f"{node.name} by {ast.unparse(decorator)}"))
    if isinstance(node, ast.ClassDef):
        if node.bases:
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            facts.add_pattern("Derived", node.lineno, f"{node.name} of {bases}")
        if any(isinstance(item, ast.FunctionDef) and item.name == "__enter__" for item in node.body):
            facts.add_pattern("Context managers", node.lineno, node.name)


def _definitions(body: list[ast.stmt]) -> list[Definition]:
    result = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            signature = f"{node.name}({ast.unparse(node.args)}){returns}"
            result.append(Definition("function", node.name, signature, node.lineno))
        elif isinstance(node, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            result.append(Definition("class", node.name, f"class {node.name}({bases})".replace("()", ""), node.lineno))
            result[-1].members = _definitions([item for item in node.body if isinstance(item, ast.FunctionDef)])
        elif isinstance(node, (ast.If, ast.Try)):
            result += _definitions(node.body)
            continue
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if not any(name.isupper() and not name.startswith("_") for name in names):
                continue
            result.append(Definition("constant", names[0], shortened(ast.unparse(node), 90), node.lineno))
            continue
        else:
            continue
        result[-1].words = ast.get_docstring(node) or ""
        result[-1].end = node.end_lineno or node.lineno
    return result
