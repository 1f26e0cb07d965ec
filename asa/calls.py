"""Reading tool calls.

A model that calls a tool writes `<|tool_call_start|>[calculator(expression="0.25 * 200")]<|tool_call_end|>`:
Python-looking calls between two markers. Asked to, it writes JSON objects there instead. This chapter turns
such text into `ToolCall(name, arguments)`, whose arguments are plain JSON values.

It reads and never runs: no eval, no exec, no Python parser, one reader that goes through a block from left to
right in time proportional to its length. It forgives what leaves the meaning clear: a missing end marker,
`month=07`, `from=1`, `true` for `True`, a raw newline in a string, and nested quotes (`'sed -n '1,5p' x'`)
where only one place can end the string. It does not guess: a positional argument, an expression (`2+2`), a
bare word, bytes, 1e999 or an argument given twice spoils that call, not its siblings. It knows no schemas.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

_CALL_DECODER = json.JSONDecoder(strict=False)  # not strict: a raw newline may stand in a string
_CALL_CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}

# The patterns are possessive (`*+`): what they took they never give back, so no text makes them try twice.
_CALL_STRING = (
    r'"""(?:[^\\"]++|\\.|"(?!""))*+"""|"(?!"")(?:[^\\"]++|\\.)*+"'
    r"|'''(?:[^\\']++|\\.|'(?!''))*+'''|'(?!'')(?:[^\\']++|\\.)*+'"
)
_CALL_TOKEN = re.compile(
    rf"(?s)\s*+(?:(?P<string>(?:(?<!['\"])[bBfFrRuU])?+(?:{_CALL_STRING}))"
    r"|(?P<number>[+-]?+(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?+|\.[0-9][0-9_]*+)(?:[eE][+-]?+[0-9]++)?+(?![\w.]))"
    r"|(?P<name>[^\W\d]\w*+(?:\.[^\W\d]\w*+)*+)|(?P<unclosed>['\"].*+)|(?P<other>.)|(?P<end>\Z))"
)
_CALL_ESCAPE = re.compile(
    r"""\\(?:[abfnrtv\\'"\n]|[0-3]?[0-7]{1,2}|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5})"""
)
# A quote that could end a nested string: `, key=` follows, or the call closes before a sibling or the end.
_CALL_CLOSING = re.compile(
    r"""(?s)\\.|(['"])(?=\s*+(?:(?P<more>,\s*+[^\W\d]\w*+\s*+=(?!=))"""
    r"|,?+\s*+\)\s*+(?:,\s*+[\w.]++\s*+\(|,?+\s*+\]?+\s*+\Z)))"
)
# An operator after a string makes an expression ('a' + 'b'), unless the quote looks like an opening one.
_CALL_OPERATOR = re.compile(
    r"""(?:(?<![\s(\[{=,:]['"])|(?=\s))\s*+(?:[-+*/%@|&^<>.(\[]|[=!]=|(?:and|or|in|is|not|if|for)\b)"""
)


class ToolCallError(ValueError):
    """A block was marked as a tool call, but no call in it is valid."""


@dataclass(frozen=True)
class ToolCall:
    """One call: the tool's name and its arguments as JSON values."""

    name: str
    arguments: dict[str, Any]


def parse_tool_calls(
    text: str,
    tools: Collection[str] | None = None,
    markers: tuple[str, str] = ("<|tool_call_start|>", "<|tool_call_end|>"),
) -> list[ToolCall]:
    """Return the tool calls in a model's answer, in order; an empty list where none was attempted.

    A block runs from a start marker to the first end marker, else to the next start marker or the end of the
    turn. Text inside `<think>` is no call. An answer without blocks may end in a bare list of known tools.

    Args:
        text: What the model wrote, special tokens included.
        tools: Names of the known tools. If given, a call to any other tool is invalid.
        markers: What opens and closes a block; `("<tool_call>", "</tool_call>")` for some models.

    Raises:
        ToolCallError: There are blocks, but no valid call in them. An empty list `[]` is not an error.

    Example:
        >>> parse_tool_calls('<|tool_call_start|>[web_search(query="Oslo", limit=3)]<|tool_call_end|>Done.')
        [ToolCall(name='web_search', arguments={'query': 'Oslo', 'limit': 3})]
    """
    start, end = map(re.escape, markers)
    part = re.compile(rf"(?s)<think>.*?(?:</think>|\Z)|({start})(.*?)({end}|<\|im_end\|>|(?={start})|\Z)")
    blocks = [match for match in part.finditer(text) if match[1]]
    if not blocks:
        return _call_bare(part.sub("", text), tools or (), markers[1])
    calls, problem = [], ""
    for block in blocks:
        reader = _CallReader(block[2], tools, cut_off=not block[3])
        calls += reader.calls()
        problem = problem or reader.problem
    if problem and not calls:
        raise ToolCallError(f"no valid call: {problem}")
    return calls


def _call_bare(text: str, tools: Collection[str], end: str) -> list[ToolCall]:
    """Read a list of known tools that ends the text: models sometimes leave the markers out."""
    text = text.rstrip().removesuffix("<|im_end|>").rstrip().removesuffix(end)
    starts = [match.start() for match in re.finditer(r"\[\s*+([\w.]++)\s*+\(", text) if match[1] in tools]
    found = (_CallReader(text[start:], tools).calls() for start in starts[-3:])  # few: that is linear
    return next(filter(None, found), [])


class _CallReader:
    """Reads one block. `now` is the token at hand, from `begin` to `end`; the one before ended at `done`."""

    def __init__(self, text: str, tools: Collection[str] | None = None, cut_off: bool = False) -> None:
        self.text, self.tools, self.cut_off = text, tools, cut_off
        self.problem = ""  # what is wrong with the first bad call
        self.exhausted: set[str] = set()  # quotes that can end no nested string from here on
        self.goto(0)

    def goto(self, at: int) -> None:
        token = _CALL_TOKEN.match(self.text, at)
        self.kind = kind = token.lastgroup
        self.now, self.done, (self.begin, self.end) = token[kind], at, token.span(kind)

    def accept(self, mark: str) -> bool:
        if found := self.now == mark:
            self.goto(self.end)
        return found

    def take(self, kind: str) -> str:
        token = self.now if self.kind == kind else self.fail(kind)
        self.goto(self.end)
        return token

    def fail(self, expected: str) -> NoReturn:
        raise ToolCallError(f"expected {expected} at {self.text[self.begin : self.begin + 40]!r}")

    def items(self, close: str, read: Callable[[], Any]) -> list[Any]:
        """Read what is separated by commas up to `close`; a last comma is allowed."""
        found = []
        while not self.accept(close):
            found.append(read())
            if not self.accept(",") and self.now != close:
                self.fail(f"',' or {close!r}")
        return found

    def calls(self) -> list[ToolCall]:  # block := call, call ... | [call, call ...]
        calls, listed = [], self.accept("[")
        while self.now not in (",", "]", ""):
            self.resume = self.begin  # the call's begin: where to look for its end if it is bad
            try:
                calls.append(self.call())
            except (ValueError, TypeError) as error:  # ours, and what json says
                self.problem = self.problem or str(error)
                self.skip()
            if not self.accept(",") and self.now != "{":  # JSON objects may simply follow each other
                break
        closed = (self.accept("]") or (self.cut_off and calls)) if listed else calls  # "]" may be cut off
        if closed and not self.now:
            return calls
        self.problem = self.problem or f"expected calls and nothing else at {self.now[:40]!r}"
        return []

    def skip(self) -> None:
        """Go over the rest of a bad call, to the comma or bracket behind it."""
        depth = 0
        for token in _CALL_TOKEN.finditer(self.text, self.resume):
            if (mark := token["other"]) in (",", ")", "]", "}") and depth == 0:
                break
            depth += (mark in ("(", "[", "{")) - (mark in (")", "]", "}"))
        self.goto(token.start())

    def call(self) -> ToolCall:  # call := name(key=value, ...) | {"name": ..., "arguments": {...}}
        if self.now == "{":
            self.value()
            name, arguments = _call_from_json(self.text[self.resume : self.done])
        else:
            name = self.take("name")
            pairs = self.items(")", self.argument) if self.accept("(") else self.fail("'('")
            arguments = dict(pairs)
            if len(arguments) < len(pairs) or self.now not in (",", "]", ""):
                self.fail("each argument once and the end of the call")
        if self.tools is not None and name not in self.tools:
            raise ToolCallError(f"{name} is not a known tool")
        # Through JSON and back: 1e999 is refused, a key 1 becomes "1", a pair of surrogates one character.
        return ToolCall(name, _CALL_DECODER.decode(json.dumps(arguments, allow_nan=False)))

    def argument(self) -> tuple[str, Any]:  # argument := key=value; a key is any word, `from` and `class` too
        key = self.take("name")
        if "." in key or not self.accept("="):
            self.fail("name=value")
        begin, is_string = self.begin, self.kind == "string"
        value = self.value()
        if is_string and self.now not in (",", ")") and not _CALL_OPERATOR.match(self.text, self.done):
            value = self.nested(begin)
        return key, value

    def nested(self, begin: int) -> str:
        """Read a string that holds its own quote, if there is exactly one place where it can end."""
        opening, ends = re.compile(r"'''|\"{3}|['\"]").search(self.text, begin), []
        if opening[0] not in self.exhausted:
            for closing in _CALL_CLOSING.finditer(self.text, opening.end()):
                if closing[1] == opening[0]:
                    ends.append(closing.end())
                    if not closing["more"]:  # the call closes here: no place further on belongs to it
                        self.resume = self.text.index(")", ends[-1]) + 1
                        break
            else:
                self.exhausted.add(opening[0])
        if len(ends) != 1:
            self.fail(f"a string with one possible end, not {len(ends)},")
        self.goto(ends[0])
        return _call_unquote(self.text[begin : ends[0]])

    def value(self, depth: int = 0) -> Any:  # value := string ... | number | constant | [...] | (...) | {...}
        if (depth := depth + 1) > 100:  # so recursion stays shallow, whatever the text
            self.fail("less nesting")
        if self.kind == "string":
            parts = []
            while self.kind == "string":  # neighbours are joined: 'a' "b"
                parts.append(_call_unquote(self.take("string")))
            return "".join(parts)
        if self.kind == "number":
            digits = self.take("number")
            return float(digits) if set(digits) & set(".eE") else int(digits)  # int("07") is 7
        if self.accept("["):
            return self.items("]", lambda: self.value(depth))
        if self.accept("("):  # a tuple becomes a list; without a comma it is just a value in brackets
            values = self.items(")", lambda: (self.value(depth), self.now == ","))
            return values[0][0] if len(values) == 1 and not values[0][1] else [value for value, _ in values]
        if self.accept("{"):  # a dict, or a set, which becomes a list
            pairs = self.items("}", lambda: (self.value(depth), self.accept(":") and [self.value(depth)]))
            is_set = pairs and not any(value for _, value in pairs)
            return [key for key, _ in pairs] if is_set else {key: value for key, (value,) in pairs}
        return _CALL_CONSTANTS[self.take("name")] if self.now in _CALL_CONSTANTS else self.fail("a value")


def _call_from_json(text: str) -> tuple[str, dict[str, Any]]:
    """Read {"name": ..., "arguments" or "parameters": an object, or an object written as a string}."""
    call = _CALL_DECODER.decode(text)
    name, arguments = call.get("name"), call.get("arguments", call.get("parameters", {}))
    if isinstance(arguments, str):
        _CallReader(arguments).value()  # refuses deep nesting, as it did for `text`
        arguments = _CALL_DECODER.decode(arguments)
    if isinstance(name, str) and isinstance(arguments, dict) and all(map(str.isidentifier, name.split("."))):
        return name, arguments
    raise ToolCallError('a JSON call needs a "name" and, as an object, its "arguments"')


def _call_unquote(literal: str) -> str:
    """Decode a string's escapes by Python's rules; an unknown one keeps its backslash."""
    kind = literal[0].lower().strip("'\"")
    size = 3 if literal[len(kind) :].startswith(("'''", '"""')) else 1
    body = literal[len(kind) + size : -size]
    if kind == "b" or (kind == "f" and ("{" in body or "}" in body)):
        raise ToolCallError("bytes and f-strings are not plain text")
    return body if kind == "r" else _CALL_ESCAPE.sub(lambda m: m[0].encode().decode("unicode_escape"), body)
