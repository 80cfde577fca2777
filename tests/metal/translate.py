"""The Metal text of a kernel, as Slang emits it, to C++ over the stand-in for Metal's library (include/metal_stdlib).

Address spaces and attributes go; a function that takes positions as arrays calls the kernel. All else is left alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_KERNEL = re.compile(r"\[\[kernel\]\]\s*void\s+(\w+)\((.*?)\)\s*\{", re.DOTALL)
_BETWEEN_ARGUMENTS = re.compile(r",\s*(?![^<]*>)")
_ATTRIBUTE = re.compile(r"\[\[([^\]]*)\]\]")
# A variable in workgroup memory; pointers to such are pointers.
_VARIABLE = re.compile(r"\bthreadgroup\s+(?=[A-Za-z_])(.+?)\s+(\w+)\s*;")
_POINTER = re.compile(r"\bthreadgroup\s*(?=[*&]|\w+\s*\*)")
# Slang's overloads of a function for such pointers.
_OF_WORKGROUP_MEMORY = re.compile(r"template<[^>]*>\n[^\n{]*\bthreadgroup T\*[^\n{]*\{[^}]*\}\n")
# What the stand-in passes for an attribute.
_POSITIONS = {
    "thread_position_in_threadgroup": "uint3(t[0], t[1], t[2])",
    "threadgroup_position_in_grid": "uint3(g[0], g[1], g[2])",
    "thread_index_in_simdgroup": "metal::simd_lane()",
    "threads_per_simdgroup": "32u",
}


class Translated(NamedTuple):
    """C++, and whether its threads wait for each other."""

    code: str
    waits: bool


def _kernel(metal: str) -> re.Match[str]:
    found = _KERNEL.search(metal)
    if found is None:
        raise ValueError("there is no kernel in the text")
    return found


def kernel_of(metal: str) -> str:
    """The name of the kernel in a text. ValueError where there is none."""
    return _kernel(metal).group(1)


def to_cpp(metal: str) -> Translated:
    """ValueError for a text that is none of a kernel's, or takes an argument that the stand-in does not pass."""
    text = re.sub(r"^#line.*\n", "", metal, flags=re.MULTILINE)
    kernel = _kernel(text)
    name = kernel.group(1)
    passed = ", ".join(map(_passed, filter(None, _BETWEEN_ARGUMENTS.split(kernel.group(2)))))
    text = _ATTRIBUTE.sub("", text.replace("[[kernel]]", "static"))
    text = _OF_WORKGROUP_MEMORY.sub("", text)
    text = _POINTER.sub("", text)
    text = _VARIABLE.sub(r"static Threadgroup<\1> \2_memory; auto& \2 = \2_memory.get();", text)
    invoke = f'extern "C" void invoke(const unsigned* t, const unsigned* g, const void* p) {{ {name}({passed}); }}\n'
    return Translated(f"{text}\n{invoke}", re.search(r"_barrier\(|\bsimd_|\bsimdgroup_", text) is not None)


def _passed(argument: str) -> str:
    attribute = _ATTRIBUTE.search(argument)
    what = attribute.group(1) if attribute else ""
    if what == "buffer(0)":
        # The type goes up to the name: "Params_0 constant* p".
        return f"({_POINTER.sub('', _ATTRIBUTE.sub('', argument)).strip().rsplit('*', 1)[0]}*)p"
    if what not in _POSITIONS:
        raise ValueError(f"the stand-in does not pass the argument {argument.strip()!r}")
    return _POSITIONS[what]
