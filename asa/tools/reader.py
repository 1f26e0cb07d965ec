"""Reading one block of calls, from left to right, in time proportional to its length.

It reads and never runs: no eval, no exec, no Python parser. It forgives what leaves the meaning clear: a missing end
marker, `month=07`, `from=1`, `true` for `True`, a raw newline in a string, a Python dict in place of JSON, a bracket
too many, and nested quotes (`'sed -n '1,5p' x'`) where only one place can end the string. It does not guess: a
positional argument, an expression (`2+2`), a bare word, bytes, 1e999 or an argument given twice spoils that call, not
its siblings.
"""

import json
import re
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from asa.tools.calls import (
    ARGUMENT_NAME,
    CLOSING,
    CONSTANTS,
    DECODER,
    OPERATOR,
    TOKEN,
    TOOL_NAME,
    ToolCall,
    ToolCallError,
    unquoted,
)


class CallReader:
    """Reads one block. `now` is the token at hand, from `begin` to `end`; the one before ended at `done`."""

    def __init__(self, text: str, tools: Collection[str] | None = None, cut_off: bool = False) -> None:
        self.text, self.tools, self.cut_off = text, tools, cut_off
        self.problem = ""  # what is wrong with the first bad call
        self.exhausted: set[str] = set()  # quotes that can end no nested string from here on
        self.as_json = False  # whether what is read now is JSON, or a Python dict in its place
        self.goto(0)

    def goto(self, at: int) -> None:
        """Read the token at `at`."""
        token = TOKEN.match(self.text, at)
        assert token and token.lastgroup  # whatever the text, some kind of token stands there
        self.kind = kind = token.lastgroup
        self.now, self.done = token[kind], at
        self.begin, self.end = token.span(kind)

    def accept(self, mark: str) -> bool:
        """Go over `mark` if it is at hand; whether it was."""
        if found := self.now == mark:
            self.goto(self.end)
        return found

    def accept_all(self, *marks: str) -> None:
        """Go over all of `marks` that follow."""
        while self.now in marks:
            self.goto(self.end)

    def take(self, kind: str) -> str:
        """The token at hand, which must be of `kind`."""
        token = self.now if self.kind == kind else self.fail(kind)
        self.goto(self.end)
        return token

    def word(self, pattern: re.Pattern) -> str:
        """What `pattern` finds here, which must be a name."""
        found = pattern.match(self.text, self.begin) or self.fail("a name")
        self.goto(found.end())
        return found[0]

    def fail(self, expected: str) -> NoReturn:
        """Give this call up."""
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
        """All calls of the block; where there is none, `problem` says why."""
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
        for token in TOKEN.finditer(self.text, self.resume):
            if (mark := token["other"]) in (",", ")", "]", "}") and depth == 0:
                break
            depth += (mark in ("(", "[", "{")) - (mark in (")", "]", "}"))
        self.goto(token.start())

    def call(self, listed: bool) -> ToolCall:
        """`name(argument, ...)`, or an object with "name" and "arguments"."""
        self.as_json = self.now == "{"
        if self.as_json:
            name, arguments = call_from_json(self.object(listed))
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
        return ToolCall(name, DECODER.decode(json.dumps(arguments, allow_nan=False)))

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

    def argument(self) -> list[tuple[str, Any]]:
        """`key=value`, or `**{"any key": value, ...}`."""
        if self.text.startswith("**", self.begin):
            self.goto(self.begin + 2)
            pairs = self.items("}", self.pair) if self.accept("{") else self.fail("'{'")
            return pairs if all(isinstance(key, str) for key, _ in pairs) else self.fail("keys that are strings")
        key = self.word(ARGUMENT_NAME)  # any word, `from` and `class` too
        if not self.accept("="):
            self.fail("name=value")
        begin, is_string = self.begin, self.kind == "string"
        value = self.value()
        if is_string and self.now not in (",", ")") and not OPERATOR.match(self.text, self.done):
            value = self.nested(begin)
        return [(key, value)]

    def pair(self) -> tuple[Any, Any]:
        """`key: value` of an object."""
        return self.value(), self.value() if self.accept(":") else self.fail("':'")

    def nested(self, begin: int) -> str:
        """Read a string that holds its own quote, if there is exactly one place where it can end."""
        opening, ends = re.compile(r"'''|\"{3}|['\"]").search(self.text, begin), []
        assert opening  # it is called where a string begins
        if opening[0] not in self.exhausted:
            for closing in CLOSING.finditer(self.text, opening.end()):
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
        return unquoted(self.text[begin : ends[0]])

    def value(self, depth: int = 0) -> Any:
        """A string (neighbours are joined), a number, a constant, `[...]`, `(...)` or `{...}`."""
        if (depth := depth + 1) > 100:  # so recursion stays shallow, whatever the text
            self.fail("less nesting")
        if self.kind == "string":
            parts: list[str] = []
            while self.kind == "string" and not (parts and self.as_json):  # Python joins neighbours: 'a' "b"
                parts.append(unquoted(self.take("string"), self.as_json))
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
        return CONSTANTS[self.take("name")] if self.now in CONSTANTS else self.fail("a value")


def call_from_json(call: dict[Any, Any]) -> tuple[str, dict[str, Any]]:
    """Find name and arguments in {"name": ..., "arguments" or "parameters": an object, or one written as a string}.

    OpenAI wraps that in {"type": "function", "function": {...}}; the name alone may stand there too. Null and an empty
    string are no arguments.
    """
    if "name" not in call and isinstance(call.get("function"), dict):
        call = call["function"]
    name, arguments = call.get("name", call.get("function")), call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str) and arguments:
        arguments = CallReader(arguments).only_object()
    if arguments in (None, ""):
        arguments = {}
    if isinstance(name, str) and isinstance(arguments, dict) and TOOL_NAME.fullmatch(name):
        return name, arguments
    raise ToolCallError('a JSON call needs a "name" and, as an object, its "arguments"')
