"""Calls: what a call is, and the tokens that it is written in.

The patterns take what they can and never give it back, so no text makes them try twice.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

DECODER = json.JSONDecoder(strict=False)  # not strict: a raw newline may stand in a string
CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
# The patterns are possessive (`*+`): what they took they never give back, so no text makes them try twice.
WORD = r"\w++(?:-++\w++)*+"  # JSON names may have dashes and begin with a digit: `min-price=3`
ARGUMENT_NAME = re.compile(WORD)  # any other argument is written `**{"min price": 3}`
TOOL_NAME = re.compile(rf"{WORD}(?:\.{WORD})*+")
STRING = (
    r'"""(?:[^\\"]++|\\.|"(?!""))*+"""|"(?!"")(?:[^\\"]++|\\.)*+"'
    r"|'''(?:[^\\']++|\\.|'(?!''))*+'''|'(?!'')(?:[^\\']++|\\.)*+'"
)
TOKEN = re.compile(
    rf"(?s)\s*+(?:(?P<string>(?:(?<!['\"])[bBfFrRuU])?+(?:{STRING}))"
    r"|(?P<number>[+-]?+(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?+|\.[0-9][0-9_]*+)(?:[eE][+-]?+[0-9]++)?+(?![\w.]))"
    r"|(?P<name>[^\W\d]\w*+(?:\.[^\W\d]\w*+)*+)|(?P<unclosed>['\"].*+)|(?P<other>.)|(?P<end>\Z))"
)
ESCAPE = re.compile(r"""\\(?:[abfnrtv\\'"\n]|[0-3]?[0-7]{1,2}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5})""")
# A quote that could end a nested string: `, key=` follows, or the call closes before a sibling or the end.
CLOSING = re.compile(
    rf"""(?s)\\.|(['"])(?=\s*+(?:(?P<more>,\s*+(?:{WORD}\s*+=(?!=)|\*\*\s*+\{{))"""
    r"|,?+\s*+\)\s*+(?:,\s*+[\w.-]++\s*+\(|,?+\s*+\]?+\s*+\Z)))"
)
# An operator after a string makes an expression ('a' + 'b'), unless the quote looks like an opening one.
OPERATOR = re.compile(
    r"""(?:(?<![\s(\[{=,:]['"])|(?=\s))\s*+(?:[-+*/%@|&^<>.(\[]|[=!]=|(?:and|or|in|is|not|if|for)\b)"""
)


class ToolCallError(ValueError):
    """A block was marked as a tool call, but no call in it is valid."""


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments as JSON values."""

    name: str
    arguments: dict[str, Any]


def unquoted(literal: str, as_json: bool = False) -> str:
    """Decode a string's escapes by Python's rules, or JSON's where they apply; an unknown one keeps its backslash."""
    if as_json and literal[0] == '"':
        try:
            return DECODER.decode(literal)
        except ValueError:
            pass  # not JSON's escapes
    kind = literal[0].lower().strip("'\"")
    size = 3 if literal[len(kind) :].startswith(("'''", '"""')) else 1
    body = literal[len(kind) + size : -size]
    if kind == "b" or (kind == "f" and ("{" in body or "}" in body)):
        raise ToolCallError("bytes and f-strings are not plain text")
    return body if kind == "r" else ESCAPE.sub(lambda m: m[0].encode().decode("unicode_escape"), body)
