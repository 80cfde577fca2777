"""Facts of C++, from tree-sitter's grammar of it."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from functools import cache
from typing import Any

from repository_pages.facts import Definition, Facts, Found, Import, shortened

_CHECK = re.compile(r"^(TORCH_(INTERNAL_)?(CHECK|WARN)\w*|AT_ERROR|C10_\w*CHECK\w*|assert|static_assert)$")
_MEMORY = re.compile(
    r"reinterpret_cast|const_cast|\bdata_ptr\b|\bmem(cpy|set|move|cmp)\b|\bvoid\s*\*|\b(malloc|free|mmap|munmap)\s*\(|"
    r"\bdlsym\b|\bunsafe\w*"
)
_CONTAINERS = {"namespace_definition", "declaration_list", "linkage_specification", "preproc_if", "preproc_ifdef"}
_CONTAINERS |= {"preproc_else", "translation_unit", "field_declaration_list", "template_declaration"}
_TYPES = {
    "class_specifier": "class",
    "struct_specifier": "struct",
    "enum_specifier": "enum",
    "union_specifier": "union",
}


@cache
def _parser() -> Any:
    import tree_sitter
    import tree_sitter_cpp

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_cpp.language()))


def _text(node: Any) -> str:
    return node.text.decode(errors="replace") if node is not None else ""


def _walk(node: Any) -> Iterator[Any]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.children)


def comment_text(lines: list[str]) -> str:
    """Comments without their signs."""
    text = "\n".join(re.sub(r"^\s*(//+|/\*+|\*(?!/))? ?", "", line) for line in lines)
    return text.replace("*/", "").strip()


def opening_comment(text: str) -> str:
    """The comment that a file starts with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("//"):
            break
        lines.append(line)
    return comment_text(lines)


def _comment_before(node: Any) -> str:
    """The comment that ends on the line above a definition."""
    lines: list[str] = []
    row, before = node.start_point[0], node.prev_sibling
    while before is not None and before.type == "comment" and before.end_point[0] == row - 1:
        if before.prev_sibling is not None and before.prev_sibling.end_point[0] == before.start_point[0]:
            break  # it belongs to the code in front of it
        lines.insert(0, _text(before))
        row, before = before.start_point[0], before.prev_sibling
    return comment_text("\n".join(lines).splitlines())


def read(text: str, registrars: Container[str]) -> Facts:
    """Of a file's text. registrars: functions whose text arguments name the operators that they register."""
    root = _parser().parse(text.encode()).root_node
    facts = Facts(purpose=opening_comment(text))
    facts.definitions = _definitions(root, facts)
    for node in _walk(root):
        line = node.start_point[0] + 1
        if node.type == "preproc_include":
            path = _text(node.child_by_field_name("path"))
            facts.imports.append(Import(line, path.strip('<>"'), is_system=path.startswith("<")))
        elif node.type == "call_expression":
            _read_call(node, line, facts, registrars)
        elif node.type == "throw_statement":
            facts.checks.append(Found(line, shortened(_text(node))))
        elif node.type == "lambda_expression" and node.parent.type == "argument_list":
            function = _text(node.parent.parent.child_by_field_name("function"))
            facts.add_pattern("Functions handed on", line, shortened(f"a lambda to {function}", 80))
        elif node.type == "virtual_specifier" and _text(node) == "override":
            facts.add_pattern("Overridden", line, shortened(_text(node.parent).partition("{")[0], 90))
        elif node.type in ("identifier", "field_identifier"):
            facts.used.add(_text(node))
        elif node.type == "comment":
            facts.comment_lines += node.end_point[0] - node.start_point[0] + 1
    for number, line_text in enumerate(text.splitlines(), 1):
        if _MEMORY.search(line_text.partition("//")[0]):
            facts.memory.append(Found(number, shortened(line_text)))
    return facts


def _read_call(node: Any, line: int, facts: Facts, registrars: Container[str]) -> None:
    function = _text(node.child_by_field_name("function"))
    name = re.split(r"\.|->|::", function)[-1].partition("<")[0]
    if _CHECK.match(name):
        facts.checks.append(Found(line, shortened(_text(node))))
    if name in registrars or function in ("m.def", "m.impl"):
        for argument in node.child_by_field_name("arguments").named_children[:1]:
            if argument.type == "string_literal":
                facts.registered.append(Found(line, _text(argument).strip('"').partition("(")[0]))


def _definitions(node: Any, facts: Facts) -> list[Definition]:
    result: list[Definition] = []
    for child in node.children:
        declared = child
        is_template = child.type == "template_declaration"
        if is_template:
            parameters = _text(child.child_by_field_name("parameters"))
            declared = next((c for c in child.children if c.type == "function_definition" or c.type in _TYPES), child)
            facts.add_pattern(
                "Templates", child.start_point[0] + 1, shortened(f"template {parameters} {_head(declared)}", 90)
            )
        made = _definition(declared, child, facts)
        if made is not None:
            result.append(made)
        elif declared.type in _CONTAINERS and not is_template:
            result += _definitions(declared, facts)
    return result


def _head(node: Any) -> str:
    """A definition without its body."""
    body = node.child_by_field_name("body")
    end = body.start_byte - node.start_byte if body is not None else len(node.text)
    return shortened(node.text[:end].decode(errors="replace").rstrip(" :"), 160)


def _definition(node: Any, whole: Any, facts: Facts) -> Definition | None:
    line, end = whole.start_point[0] + 1, whole.end_point[0] + 1
    words = _comment_before(whole)
    if node.type == "function_definition":
        declarator = node.child_by_field_name("declarator")
        while declarator is not None and declarator.type != "function_declarator":
            declarator = declarator.child_by_field_name("declarator")
        if declarator is None:
            return None
        name = _text(declarator.child_by_field_name("declarator"))
        return Definition("function", name, _head(node), line, words, end)
    if node.type in _TYPES and node.child_by_field_name("body") is not None:
        name = _text(node.child_by_field_name("name"))
        body = node.child_by_field_name("body")
        members = _definitions(body, facts) + _declared_methods(body) if node.type != "enum_specifier" else []
        members.sort(key=lambda member: member.line)
        return Definition(_TYPES[node.type], name, _head(node), line, words, end, members)
    if node.type == "preproc_function_def":
        name = _text(node.child_by_field_name("name"))
        signature = f"#define {name}{_text(node.child_by_field_name('parameters'))}"
        return Definition("macro", name, signature, line, words, end)
    return None


def _declared_methods(body: Any) -> list[Definition]:
    """Methods that a class only declares."""
    result = []
    for node in body.children:
        if node.type in ("field_declaration", "declaration"):
            declarator = next((c for c in _walk(node) if c.type == "function_declarator"), None)
            if declarator is not None and declarator.parent.type != "parameter_declaration":
                name = _text(declarator.child_by_field_name("declarator"))
                words = _comment_before(node)
                line = node.start_point[0] + 1
                result.append(Definition("method", name, shortened(_text(node), 160), line, words, line))
    return result
