"""Index expressions of Inductor in Slang."""

from __future__ import annotations

from collections.abc import Callable

import sympy
from sympy.printing.precedence import PRECEDENCE
from torch.utils._sympy.printers import ExprPrinter

_ATOM = PRECEDENCE["Atom"] - 0.5


class SlangPrinter(ExprPrinter):
    """Integers are `Index`, the kernel's 32- or 64-bit type; floating-point sizes are float."""

    def _print_Symbol(self, expr: sympy.Symbol) -> str:
        """What was read from a tensor may have another width."""
        return f"Index({expr.name})" if expr.name.startswith("tmp") else expr.name

    def _print_Integer(self, expr: sympy.Integer) -> str:
        value = int(expr)
        return (
            str(value)
            if -(2**31) < value < 2**31
            else f"{value}ll"
            if value > -(2**63)
            else "(-9223372036854775807ll - 1)"
        )

    def _print_Float(self, expr: sympy.Float) -> str:
        return f"{float(expr)!r}f" if not expr.is_integer else f"{float(expr):.1f}f"

    def _function(self, name: str, *arguments: sympy.Expr, kind: str = "Index") -> str:
        return f"{name}({', '.join(f'{kind}({self._print(a)})' for a in arguments)})"

    def _print_FloorDiv(self, expr: sympy.Expr) -> str:
        x, divisor = expr.args
        if not expr.is_integer:
            return f"maths::floor({self._print_FloatTrueDiv(expr)})"
        if x.is_nonnegative and divisor.is_positive:
            return f"({self.parenthesize(x, _ATOM)} / {self.parenthesize(divisor, _ATOM)})"
        return self._function("maths::floor_divide", x, divisor)

    def _print_ModularIndexing(self, expr: sympy.Expr) -> str:
        x, divisor, modulus = expr.args
        if x.is_nonnegative:
            text = self.parenthesize(x, _ATOM)
            text = text if divisor == 1 else f"({text} / {self.parenthesize(divisor, _ATOM)})"
            return f"({text} % {self.parenthesize(modulus, _ATOM)})"
        quotient = self._print(x) if divisor == 1 else self._function("maths::floor_divide", x, divisor)
        return f"maths::remainder(Index({quotient}), Index({self._print(modulus)}))"

    def _print_PythonMod(self, expr: sympy.Expr) -> str:
        return self._function("maths::remainder", *expr.args)

    def _chain(self, name: str, expr: sympy.Expr) -> str:
        kind = "Index" if expr.is_integer else "float"
        text, *rest = (f"{kind}({self._print(a)})" for a in expr.args)
        for argument in rest:
            text = f"maths::{name}({text}, {argument})"
        return text

    def _print_Min(self, expr: sympy.Expr) -> str:
        return self._chain("minimum", expr)

    def _print_Max(self, expr: sympy.Expr) -> str:
        return self._chain("maximum", expr)

    def _print_Abs(self, expr: sympy.Expr) -> str:
        return f"abs({self._print(expr.args[0])})"

    def _print_Where(self, expr: sympy.Expr) -> str:
        condition, first, second = (self.parenthesize(a, _ATOM) for a in expr.args)
        return f"({condition} ? {first} : {second})"

    def _print_And(self, expr: sympy.Expr) -> str:
        return "(" + " && ".join(self.parenthesize(a, _ATOM) for a in expr.args) + ")"

    def _print_Or(self, expr: sympy.Expr) -> str:
        return "(" + " || ".join(self.parenthesize(a, _ATOM) for a in expr.args) + ")"

    def _print_Not(self, expr: sympy.Expr) -> str:
        return f"!{self.parenthesize(expr.args[0], _ATOM)}"

    def _print_Relational(self, expr: sympy.Expr) -> str:
        left, right = (self._print(a) for a in expr.args)
        return f"({left} {expr.rel_op} {right})"

    def _print_BooleanTrue(self, expr: sympy.Expr) -> str:
        return "true"

    def _print_BooleanFalse(self, expr: sympy.Expr) -> str:
        return "false"

    def _print_PowByNatural(self, expr: sympy.Expr) -> str:
        return self._function("maths::pow", *expr.args)

    # Sizes in floating point.

    def _print_ToFloat(self, expr: sympy.Expr) -> str:
        return f"float({self._print(expr.args[0])})"

    def _print_IntTrueDiv(self, expr: sympy.Expr) -> str:
        return self._function("maths::div", *expr.args, kind="float")

    _print_FloatTrueDiv = _print_IntTrueDiv

    def _print_FloatPow(self, expr: sympy.Expr) -> str:
        return self._function("maths::pow", *expr.args, kind="float")

    def _print_Infinity(self, expr: sympy.Expr) -> str:
        return "asfloat(0x7f800000u)"

    def _print_NegativeInfinity(self, expr: sympy.Expr) -> str:
        return "asfloat(0xff800000u)"

    def _print_NaN(self, expr: sympy.Expr) -> str:
        return "asfloat(0x7fc00000u)"


def _of_float(template: str) -> Callable[[SlangPrinter, sympy.Expr], str]:
    def print_it(self: SlangPrinter, expr: sympy.Expr) -> str:
        return template.format(f"float({self._print(expr.args[0])})")

    return print_it


_OPAQUE = ("sqrt", "cos", "cosh", "sin", "sinh", "tan", "tanh", "asin", "acos", "atan", "exp", "log", "log2")
_OF_FLOATS = {f"OpaqueUnaryFn_{name}": f"maths::{name}({{}})" for name in _OPAQUE} | {
    "FloorToInt": "Index(maths::floor({}))",
    "floor": "Index(maths::floor({}))",
    "CeilToInt": "Index(maths::ceil({}))",
    "ceiling": "Index(maths::ceil({}))",
    "TruncToInt": "Index(maths::trunc({}))",
    "RoundToInt": "Index(maths::round({}))",
    "TruncToFloat": "maths::trunc({})",
}
for _name, _template in _OF_FLOATS.items():
    setattr(SlangPrinter, f"_print_{_name}", _of_float(_template))
