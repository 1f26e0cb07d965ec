"""Grammars: what a model may write behind the trigger, so that a finished call parses, is known and fits its schema.

`call_language` is what may be written, `call_grammar` the same as a Lark grammar for llguidance, which need not be
installed for it. Which calls are right is not asked here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from asa.languages.lark import lark
from asa.languages.reading import TooLong, longest_way_out, shortest
from asa.languages.trees import Language, Lexeme, Text, choice, optional, repeat, sequence
from asa.support.files import in_short
from asa.tools.calls import ARGUMENT_NAME
from asa.tools.definitions import Tool, ToolsError
from asa.tools.schemas import schema_resolver, without_reference
from asa.tools.strings import JSON, PYTHONIC, Notation, Room, RoomError, UnsayableSchema
from asa.tools.values import COLON, COMMA, NOT_SAID, key_of, listed, members, object_language

MOST_CALLS = 16  # in one block
FORMS = ("pythonic", "json")
MARKERS = ("<|tool_call_start|>", "<|tool_call_end|>")
TURN_END = "<|im_end|>"  # closes a block, wherever it stands


def call_grammar(
    tools: Mapping[str, Tool],
    form: str = "pythonic",
    request: str | None = None,
    markers: tuple[str, str] = MARKERS,
) -> str:
    """Return the Lark grammar of what stands between the markers of a call.

    Args:
        tools: The tools that may be called, by name, as `load_tools` gives them.
        form: `pythonic`, `[name(argument="value"), ...]`, or `json`, objects with `name` and `arguments`.
        request: What is asked, from which strings with `x-copy` take a span; None: they are any text.
        markers: What opens and closes a call; no string may hold it.

    Raises:
        ToolsError: A schema says what a grammar cannot; the message names the tool and the keyword.
        ValueError: There is no such form.

    Example:
        >>> print(call_grammar({"now": Tool("now", "", {"type": "object"}, "time")}))
        start: "[now()" (T0 "now()"){0,15} "]"
        T0: "," (" "){0,1}
    """
    return lark(call_language(tools, form, request, markers))


def call_language(
    tools: Mapping[str, Tool],
    form: str = "pythonic",
    request: str | None = None,
    markers: tuple[str, str] = MARKERS,
    most: int = MOST_CALLS,
) -> Language:
    """Return what may stand between the markers of a call, at `most` so many calls; else as `call_grammar`."""
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r} of calls: use {' or '.join(FORMS)}")
    if not tools:
        raise ToolsError("there is no tool to call: name one, or answer without calls")
    notation = replace(PYTHONIC if form == "pythonic" else JSON, forbidden=(*markers, TURN_END), request=request)
    call = choice(_call(tool, form, notation) for tool in tools.values())
    block = sequence(Text("["), call, repeat(sequence(COMMA, call), 0, most - 1), Text("]"))
    if form == "pythonic":
        return block
    around = Lexeme(optional(Text("\n")))
    return sequence(around, choice([call, block]), around)


def _call(tool: Tool, form: str, notation: Notation) -> Language:
    """One call of a tool."""
    notation = replace(notation, room=Room())
    try:
        schema, resolver = without_reference(tool.parameters, schema_resolver(tool.parameters))
        if refused := (NOT_SAID | {"anyOf", "enum", "const"}) & schema.keys():
            raise UnsayableSchema(min(refused))
        if schema.get("additionalProperties", False) is not False:
            raise UnsayableSchema("additionalProperties")
        closed = {**schema, "properties": schema.get("properties", {}), "additionalProperties": False}
        if form == "pythonic":
            call = _pythonic(tool.name, closed, resolver, notation)
        else:
            call = _json(tool.name, object_language(closed, resolver, notation, 0))
    except RoomError as error:
        raise ToolsError(f"tool {tool.name:.60}: {error}") from error
    except UnsayableSchema as error:
        raise ToolsError(
            f"tool {tool.name:.60}: a grammar cannot say {in_short(str(error))}, write the schema without it or call "
            "without a grammar"
        ) from error
    try:
        shortest(call)
        longest_way_out(call)  # of what may be left out, too
    except TooLong as error:
        raise ToolsError(f"tool {tool.name:.60}: {error}, give its schema smaller bounds") from error
    except ValueError as error:
        raise ToolsError(f"tool {tool.name:.60}: no arguments fit its schema, correct it") from error
    return call


def _pythonic(name: str, schema: dict[str, Any], resolver: Any, notation: Notation) -> Language:
    """`name(argument="value", ...)`; an argument that is no word is written `**{"its name": value}`."""

    def argument(key: str, inner: Language) -> Language:
        if ARGUMENT_NAME.fullmatch(key):
            return sequence(Text(f"{key}="), inner)
        return sequence(Text("**{"), key_of(key, notation), COLON, inner, Text("}"))

    arguments = listed(members(schema, resolver, notation, 0, argument))
    return sequence(Text(name), Text("("), arguments, Text(")"))


def _json(name: str, arguments: Language) -> Language:
    """`{"name": "its name", "arguments": {...}}`."""
    title, key = sequence(Text('{"name"'), COLON, Text(f'"{name}"')), sequence(Text('"arguments"'), COLON)
    return sequence(title, COMMA, key, arguments, Text("}"))
