"""Facts of Slang.

Kernels are full of macros, which no grammar can parse, so this reads the outer level only: what stands before a brace,
with the attributes and the comment above it.
"""

from __future__ import annotations

import re
from collections.abc import Container

from repository_pages.cpp_files import comment_text, opening_comment
from repository_pages.facts import Definition, Facts, Found, Import, shortened

_IMPORT = re.compile(r"^\s*(?:__exported\s+)?(?:import|__include|implementing)\s+([\w.\"/-]+)\s*;")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
_DEFINE = re.compile(r"^\s*#\s*define\s+(\w+)(\([^)]*\))?")
_CONDITION = re.compile(r"^\s*#\s*(?:el)?if(?:n?def)?\b(.*)")
_TYPE = re.compile(r"\b(struct|interface|extension|enum|class|namespace)\s+([\w.<>]+)")
_FUNCTION = re.compile(r"([~\w]+)\s*(?:<[^>()]*(?:<[^>]*>)?[^>()]*>)?\s*\(")
_ATTRIBUTE = re.compile(r"\[\s*(\w+)\s*(\([^\]]*\))?\s*\]")
# A pointer's star is behind its type; between spaces it multiplies.
_MEMORY = re.compile(
    r"\b[\w>]+\*\s+\w+|\bspirv_asm\b|\b\w*[aA]tomic\w*\b|\bInterlocked\w+|\bgroupshared\b|\bbit_cast\b"
)
_CHECK = re.compile(r"\b(report|check|assert|static_assert|fail|raise)\w*\s*\(")
_NEITHER = {"if", "for", "while", "switch", "else", "do", "return"}


def read(text: str, registrars: Container[str]) -> Facts:
    """Of a file's text; nothing is registered in Slang."""
    facts = Facts(purpose=opening_comment(text))
    lines = text.splitlines()
    own: set[str] = set()
    for number, line in enumerate(lines, 1):
        code, slashes, _ = line.partition("//")
        facts.comment_lines += bool(slashes)
        facts.used |= set(re.findall(r"[A-Za-z_]\w+", code))
        if match := _IMPORT.match(code) or _INCLUDE.match(code):
            facts.imports.append(Import(number, match[1].strip('"')))
        elif match := _DEFINE.match(code):
            own.add(match[1])
            if match[2]:
                definition = Definition("macro", match[1], f"#define {match[1]}{match[2]}", number, end=number)
                definition.words = _comment_above(lines, number)
                facts.definitions.append(definition)
        elif match := _CONDITION.match(code):
            for name in re.findall(r"[A-Za-z_]\w*", match[1]):
                if name not in own and name != "defined":
                    facts.add_pattern("Variants, by definitions from outside", number, name)
        elif _CHECK.search(code):
            facts.checks.append(Found(number, shortened(line)))
        if _MEMORY.search(code) and not code.lstrip().startswith("#"):
            facts.memory.append(Found(number, shortened(line)))
    facts.definitions += _blocks(lines)
    facts.definitions.sort(key=lambda definition: definition.line)
    for definition in facts.walk():
        if definition.kind == "interface":
            facts.add_pattern("Interfaces", definition.line, definition.name)
        elif definition.kind == "kernel":
            facts.add_pattern("Entry points", definition.line, definition.signature)
        elif re.search(rf"\b{re.escape(definition.name)}\s*<", definition.signature):
            facts.add_pattern("Generics", definition.line, shortened(definition.signature, 90))
    return facts


def _comment_above(lines: list[str], number: int) -> str:
    """The comment that ends on the line above line `number`."""
    first = number - 1
    while first > 0 and lines[first - 1].lstrip().startswith("//"):
        first -= 1
    return comment_text(lines[first : number - 1]) if first < number - 1 and first > 0 else ""


def _blocks(lines: list[str]) -> list[Definition]:
    """What stands before a brace outside functions, with the members of types and namespaces inside."""
    result: list[Definition] = []
    open_types: list[tuple[int, Definition]] = []
    depth, head, first, in_macro, inside = 0, "", 0, False, 0
    for number, line in enumerate(lines, 1):
        code = re.sub(r'"[^"]*"', '""', line.partition("//")[0])
        if in_macro or code.lstrip().startswith("#"):
            in_macro = line.rstrip().endswith("\\")
            continue
        for character in code:
            if character == "{":
                made = _definition(head, first or number, lines) if not inside else None
                if made is not None:
                    (open_types[-1][1].members if open_types else result).append(made)
                    if made.kind in ("function", "kernel"):
                        inside = depth + 1
                    open_types.append((depth, made))
                elif not inside:
                    inside = depth + 1  # an initialiser
                depth, head, first = depth + 1, "", 0
            elif character == "}":
                depth = max(0, depth - 1)
                inside = inside if depth >= inside else 0
                if open_types and open_types[-1][0] >= depth:
                    open_types.pop()[1].end = number
                head, first = "", 0
            elif character == ";" and head.count("(") == head.count(")"):
                head, first = "", 0
            else:
                if not head.strip():
                    head, first = "", number if character.strip() else 0
                head += character
        head += " " if head else ""
    return result


def _definition(head: str, line: int, lines: list[str]) -> Definition | None:
    attributes = _ATTRIBUTE.findall(head)
    plain = " ".join(_ATTRIBUTE.sub("", head).split())
    words = _comment_above(lines, line)
    if match := _TYPE.search(plain):
        return Definition(match[1], match[2], shortened(plain, 160), line, words)
    match = _FUNCTION.search(plain)
    if match is None or match[1] in _NEITHER or "=" in plain.partition("(")[0]:
        return None
    # Entry points are marked as such; the text of the attribute has been blanked.
    threads = next((value for name, value in attributes if name == "numthreads"), None)
    if any(name == "shader" for name, _ in attributes):
        return Definition("kernel", match[1], f"{match[1]}, numthreads{threads or ''}", line, words)
    return Definition("function", match[1], shortened(plain, 160), line, words)
