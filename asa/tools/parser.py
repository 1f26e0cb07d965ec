"""Reading tool calls.

A model that calls a tool writes `<|tool_call_start|>[calculator(expression="0.25 * 200")]<|tool_call_end|>`:
Python-looking calls between two markers. Asked to, it writes JSON objects there instead. This chapter turns
such text into `ToolCall(name, arguments)`, whose arguments are plain JSON values.

It reads and never runs: no eval, no exec, no Python parser, one reader that goes through a block from left to
right in time proportional to its length. It forgives what leaves the meaning clear: a missing end marker,
`month=07`, `from=1`, `true` for `True`, a raw newline in a string, nested quotes (`'sed -n '1,5p' x'`) where only
one place can end the string, a Python dict in place of JSON, a last comma, and closing brackets too many. It does
not guess: a positional argument, an expression (`2+2`), a bare word, bytes, 1e999 or an argument given twice spoils
that call, not its siblings. It knows no schemas.

A model may think aloud before it answers, and rehearse calls there. What counts is what it says: see `spoken`.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

_CALL_DECODER = json.JSONDecoder(strict=False)  # not strict: a raw newline may stand in a string
_CALL_CONSTANTS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}

# The patterns are possessive (`*+`): what they took they never give back, so no text makes them try twice.
_CALL_WORD = r"\w++(?:-++\w++)*+"  # JSON names may have dashes and begin with a digit: `min-price=3`
ARGUMENT_NAME = re.compile(_CALL_WORD)  # any other argument is written `**{"min price": 3}`
TOOL_NAME = re.compile(rf"{_CALL_WORD}(?:\.{_CALL_WORD})*+")
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
    rf"""(?s)\\.|(['"])(?=\s*+(?:(?P<more>,\s*+(?:{_CALL_WORD}\s*+=(?!=)|\*\*\s*+\{{))"""
    r"|,?+\s*+\)\s*+(?:,\s*+[\w.-]++\s*+\(|,?+\s*+\]?+\s*+\Z)))"
)
# An operator after a string makes an expression ('a' + 'b'), unless the quote looks like an opening one.
_CALL_OPERATOR = re.compile(
    r"""(?:(?<![\s(\[{=,:]['"])|(?=\s))\s*+(?:[-+*/%@|&^<>.(\[]|[=!]=|(?:and|or|in|is|not|if|for)\b)"""
)
_CALL_THOUGHT = re.compile(r"(?s)<think>.*?(?:</think>|\Z)|(?P<prompted></think>)")


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
    turn. What is not `spoken` is no call. An answer without blocks may end in a bare list of known tools.

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
    # thinking and blocks in one pattern: `<think>` as text in a call's argument is kept
    part = re.compile(rf"(?s)<think>.*?(?:</think>|\Z)|({start})(.*?)({end}|<\|im_end\|>|(?={start})|\Z)")
    blocks = [match for match in part.finditer(_call_unprompted(text)) if match[1]]
    if not blocks:
        return _call_bare(spoken(text), tools or (), markers[1])
    calls, problem = [], ""
    for block in blocks:
        reader = _CallReader(block[2], tools, cut_off=not block[3])
        calls += reader.calls()
        problem = problem or reader.problem
    if problem and not calls:
        raise ToolCallError(f"no valid call: {problem}")
    return calls


def spoken(text: str) -> str:
    """Return an answer without its thinking.

    Thinking is `<think>...</think>`, a `<think>` that is never closed to the end of the text, and everything up to a
    `</think>` that no `<think>` opened: the prompt did.

    >>> spoken("hm</think>It is <think>or is it?</think>four.")
    'It is \\nfour.'
    """
    return _CALL_THOUGHT.sub("\n", _call_unprompted(text))  # a line break: no marker may arise across the gap


def _call_unprompted(text: str) -> str:
    """Return what follows the last `</think>` that no `<think>` opened."""
    return text[max((match.end() for match in _CALL_THOUGHT.finditer(text) if match["prompted"]), default=0) :]


def _call_bare(text: str, tools: Collection[str], end: str) -> list[ToolCall]:
    """Read a list of known tools that ends the text: models sometimes leave the markers out."""
    text = text.rstrip().removesuffix("<|im_end|>").rstrip().removesuffix(end)
    starts = [match.start() for match in re.finditer(r"\[\s*+([\w.-]++)\s*+\(", text) if match[1] in tools]
    found = (_CallReader(text[start:], tools).calls() for start in starts[-3:])  # few: that is linear
    return next(filter(None, found), [])


class _CallReader:
    """Reads one block. `now` is the token at hand, from `begin` to `end`; the one before ended at `done`."""

    def __init__(self, text: str, tools: Collection[str] | None = None, cut_off: bool = False) -> None:
        self.text, self.tools, self.cut_off = text, tools, cut_off
        self.problem = ""  # what is wrong with the first bad call
        self.exhausted: set[str] = set()  # quotes that can end no nested string from here on
        self.as_json = False  # whether what is read now is JSON, or a Python dict in its place
        self.goto(0)

    def goto(self, at: int) -> None:
        token = _CALL_TOKEN.match(self.text, at)
        self.kind = kind = token.lastgroup
        self.now, self.done, (self.begin, self.end) = token[kind], at, token.span(kind)

    def accept(self, mark: str) -> bool:
        if found := self.now == mark:
            self.goto(self.end)
        return found

    def accept_all(self, *marks: str) -> None:
        while self.now in marks:
            self.goto(self.end)

    def take(self, kind: str) -> str:
        token = self.now if self.kind == kind else self.fail(kind)
        self.goto(self.end)
        return token

    def word(self, pattern: re.Pattern) -> str:
        found = pattern.match(self.text, self.begin) or self.fail("a name")
        self.goto(found.end())
        return found[0]

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
                calls.append(self.call(listed))
            except (ValueError, TypeError) as error:  # ours, and what json says
                self.problem = self.problem or str(error)
                self.skip()
            if not self.accept(",") and self.now != "{":  # JSON objects may simply follow each other
                break
        closed = (self.accept("]") or (self.cut_off and calls)) if listed else calls  # "]" may be cut off
        self.accept_all("]", "}", ",")  # too many of them change nothing
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

    def call(self, listed: bool) -> ToolCall:  # call := name(argument, ...) | {"name": ..., "arguments": {...}}
        self.as_json = self.now == "{"
        if self.as_json:
            name, arguments = _call_from_json(self.object(listed))
        else:
            name = self.word(TOOL_NAME)
            groups = self.items(")", self.argument) if self.accept("(") else self.fail("'('")
            pairs = [pair for group in groups for pair in group]
            arguments = dict(pairs)
            self.accept_all(")")  # one too many changes nothing
            if len(arguments) < len(pairs) or self.now not in (",", "]", "}", ""):
                self.fail("each argument once and the end of the call")
        if self.tools is not None and name not in self.tools:
            raise ToolCallError(f"{name} is not a known tool")
        # Through JSON and back: 1e999 is refused, a key 1 becomes "1", a pair of surrogates one character.
        return ToolCall(name, _CALL_DECODER.decode(json.dumps(arguments, allow_nan=False)))

    def object(self, listed: bool) -> dict[Any, Any]:
        """Read a call's object, whose outer braces may be doubled, or lack the last one behind the arguments."""
        self.accept_all("{")
        if listed and self.kind == "string" and self.now[0] == "'":
            self.fail("calls, not Python dicts, in a list")  # that is a value, as the collected cases have it
        call = {}
        while not self.accept("}"):
            key, value = self.pair()
            call[key] = value
            if not self.accept(",") and self.now != "}":
                if self.now in ("]", "") and key in ("arguments", "parameters"):
                    break
                self.fail("',' or '}'")
        self.accept_all("}")
        return call

    def only_object(self) -> Any:
        """Read arguments that were written as a string of their own."""
        self.as_json = True
        value = self.value()
        self.accept_all("}")
        return value if not self.now else self.fail("one object")

    def argument(self) -> list[tuple[str, Any]]:  # argument := key=value | **{"any key": value, ...}
        if self.text.startswith("**", self.begin):
            self.goto(self.begin + 2)
            pairs = self.items("}", self.pair) if self.accept("{") else self.fail("'{'")
            return pairs if all(isinstance(key, str) for key, _ in pairs) else self.fail("keys that are strings")
        key = self.word(ARGUMENT_NAME)  # any word, `from` and `class` too
        if not self.accept("="):
            self.fail("name=value")
        begin, is_string = self.begin, self.kind == "string"
        value = self.value()
        if is_string and self.now not in (",", ")") and not _CALL_OPERATOR.match(self.text, self.done):
            value = self.nested(begin)
        return [(key, value)]

    def pair(self) -> tuple[Any, Any]:
        return self.value(), self.value() if self.accept(":") else self.fail("':'")

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
            while self.kind == "string" and not (parts and self.as_json):  # Python joins neighbours: 'a' "b"
                parts.append(_call_unquote(self.take("string"), self.as_json))
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


def _call_from_json(call: dict[Any, Any]) -> tuple[str, dict[str, Any]]:
    """Find name and arguments in {"name": ..., "arguments" or "parameters": an object, or one written as a string}.

    OpenAI wraps that in {"type": "function", "function": {...}}; the name alone may stand there too. Null and an empty
    string are no arguments.
    """
    if "name" not in call and isinstance(call.get("function"), dict):
        call = call["function"]
    name, arguments = call.get("name", call.get("function")), call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str) and arguments:
        arguments = _CallReader(arguments).only_object()
    if arguments in (None, ""):
        arguments = {}
    if isinstance(name, str) and isinstance(arguments, dict) and TOOL_NAME.fullmatch(name):
        return name, arguments
    raise ToolCallError('a JSON call needs a "name" and, as an object, its "arguments"')


def _call_unquote(literal: str, as_json: bool = False) -> str:
    """Decode a string's escapes by Python's rules, or JSON's where they apply; an unknown one keeps its backslash."""
    if as_json and literal[0] == '"':
        try:
            return _CALL_DECODER.decode(literal)
        except ValueError:
            pass  # not JSON's escapes
    kind = literal[0].lower().strip("'\"")
    size = 3 if literal[len(kind) :].startswith(("'''", '"""')) else 1
    body = literal[len(kind) + size : -size]
    if kind == "b" or (kind == "f" and ("{" in body or "}" in body)):
        raise ToolCallError("bytes and f-strings are not plain text")
    return body if kind == "r" else _CALL_ESCAPE.sub(lambda m: m[0].encode().decode("unicode_escape"), body)
