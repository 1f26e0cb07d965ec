"""Expressions: what a calculator makes of what a model writes.

`simpleeval` walks the syntax tree and calls no `eval`; of Python it is left numbers, lists of them, arithmetic and a
calculator's functions. SymPy would do more, but its parser ends in `eval`. Whether the result is right is not asked.
"""

import ast
import math
import operator
import re
import statistics
import warnings
from collections.abc import Callable
from typing import Any

LONGEST = 500  # characters of an expression
MOST_BITS = 20_000  # of a power
LARGEST_COUNT = 1_000  # what factorials and combinations are taken of
_NODES = (ast.Expr, ast.Constant, ast.Name, ast.UnaryOp, ast.BinOp, ast.Call, ast.List, ast.Tuple)
_REPLACED = [  # in this order: how people write -> how Python does
    (r"[$€£¥]", ""),
    ("[\u2212\u2013]", "-"),  # a minus, a dash
    ("[\u00f7\u2215]", "/"),
    ("[\u00d7\u00b7\u22c5]|(?<=[\\d)])\\s*[xX]\\s*(?=[\\d(.])", "*"),  # a times, dots, an x
    (r"√\s*(\d+(?:\.\d+)?)", r"sqrt(\1)"),
    (r"√", "sqrt"),
    ("π", "pi"),
    ("²", "**2"),
    ("³", "**3"),
    (r"\^", "**"),
    (r"\bmath\.", ""),
    (r"\s*=\s*\??\s*$", ""),
    (r"(\d+)!", r"factorial(\1)"),
    (r"(\d+(?:\.\d+)?)\s*%(?=\s*(?:$|[-+*/),]|of\b))", r"(\1/100)"),  # a percent unless a second number follows
    (r"\bof\b", "*"),
    (r"((?<![\w.])\d+(?:\.\d+)?|\))\s*(?=\()", r"\1*"),  # 3(4 + 5)
]
_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARGUMENTS = re.compile(r"[A-Za-z]\w*\s*\(|\[")  # where a comma may part two numbers


def evaluate(expression: str) -> float | None:
    """The number that an expression gives; None where it gives none, or would take long.

    `^` is a power, `%` behind a number a percent unless another number follows; the signs of times, division, root and
    pi, `!`, currency signs, a last `=` and `3(4 + 5)` are understood, and commas that part thousands where there is
    neither a list nor a function.
    Angles are in radians.

    >>> evaluate("17.5% of 2,360"), evaluate("2^10 - 7 % 4"), evaluate("9**9**9"), evaluate("x + 1")
    (413.0, 1021, None, None)
    """
    if not isinstance(expression, str) or len(expression) > LONGEST:
        return None
    text = expression.strip()
    if not _ARGUMENTS.search(text):
        text = _SEPARATOR.sub("", text)
    for pattern, instead in _REPLACED:
        text = re.sub(pattern, instead, text)
    from simpleeval import EvalWithCompoundTypes  # the report and the figures do without it

    evaluator = EvalWithCompoundTypes(operators=_OPERATORS, functions=_FUNCTIONS, names=_NAMES)
    evaluator.nodes = {kind: evaluator.nodes[kind] for kind in _NODES}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # several expressions, or what only looks like one
            found = evaluator.eval(text)
        return found if _is_number(found) and math.isfinite(found) else None
    except Exception:  # a model wrote it: the parser, the arithmetic and the functions raise anything
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _of_numbers(function: Callable) -> Callable:
    """`function`, which takes nothing but numbers: `[0] * 10**9` is no product."""

    def checked(*values: Any) -> Any:
        if not all(map(_is_number, values)):
            raise TypeError("not a number")
        return function(*values)

    return checked


def _power(base: float, exponent: float) -> float:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > MOST_BITS:
        raise OverflowError("too large a power")
    return base**exponent


def _round(value: float, digits: int = 0) -> float:
    return round(value, min(max(digits, -30), 30))  # of a whole number, 10**digits is worked out


def _of_small(function: Callable) -> Callable:
    """`function`, which takes nothing larger than `LARGEST_COUNT`."""

    def checked(*values: Any) -> Any:
        if any(abs(value) > LARGEST_COUNT for value in values):
            raise OverflowError("too large to count")
        return function(*(int(value) if value == int(value) else value for value in values))

    return checked


_OPERATORS = {
    ast.Add: _of_numbers(operator.add),
    ast.Sub: _of_numbers(operator.sub),
    ast.Mult: _of_numbers(operator.mul),
    ast.Div: _of_numbers(operator.truediv),
    ast.FloorDiv: _of_numbers(operator.floordiv),
    ast.Mod: _of_numbers(operator.mod),
    ast.Pow: _of_numbers(_power),
    ast.USub: _of_numbers(operator.neg),
    ast.UAdd: _of_numbers(operator.pos),
}
_FUNCTIONS = {
    name: _of_numbers(getattr(math, name))
    for name in "sqrt cbrt exp log log2 log10 sin cos tan asin acos atan degrees radians floor ceil hypot gcd".split()
} | {
    "ln": _of_numbers(math.log),
    "pow": _of_numbers(_power),
    "abs": _of_numbers(abs),
    "round": _of_numbers(_round),
    "min": min,
    "max": max,
    "sum": sum,
    "mean": statistics.mean,
    "median": statistics.median,
    "stdev": statistics.stdev,
    "pstdev": statistics.pstdev,
    "len": len,
    "factorial": _of_small(math.factorial),
    "comb": _of_small(math.comb),
    "perm": _of_small(math.perm),
}
_NAMES = {"pi": math.pi, "e": math.e}
