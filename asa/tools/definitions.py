"""The tools: a file of schemas, and calls judged against them.

The file is a JSON list. A tool has a name, a description, a JSON schema of its arguments, and a domain: the
sort of request it serves. It may bring examples: a request that needs it, with the arguments to call it with,
or one that does not, with an answer in words; and examples of calls, which are shown only where a call is written.
Loading checks everything and asks nobody: a mistake in the file is
one clear sentence now, not a wrong number later. This module runs no tool, and does not read a model's answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asa.support.files import UserError, half_character
from asa.tools.calls import ARGUMENT_NAME, TOOL_NAME, ToolCall
from asa.tools.forms import flat, function_entries, listed, names_functions, written_name
from asa.tools.schemas import UnusableSchema, check_schema, fits_schema, schema_resolver, without_reference

KNOWN_KEYS = ("name", "description", "parameters", "domain", "examples", "call_examples", "type", "strict")


class ToolsError(UserError):
    """A tools file cannot be used; the message says which file, which entry and what to do."""


@dataclass(frozen=True)
class Example:
    """A request and the right reaction to it: `arguments` to call the tool with, or an `answer` in words."""

    request: str
    arguments: dict[str, Any] | None = None
    answer: str | None = None


@dataclass(frozen=True)
class Tool:
    """One tool: what the model is told about it, and what we know besides."""

    name: str
    description: str
    parameters: dict[str, Any]  # a JSON schema of type "object"
    domain: str
    examples: tuple[Example, ...] = ()  # in every prompt that shows any
    call_examples: tuple[Example, ...] = ()  # in the prompt behind the decision to call, in place of the others
    given_name: str = ""  # as its file names it, where no call can write that

    @property
    def own_name(self) -> str:
        """The name by which its owner knows it."""
        return self.given_name or self.name

    def schema(self) -> dict[str, Any]:
        """Return the part that the model is shown."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


def domains_of(tools: Mapping[str, Tool]) -> list[str]:
    """The domains that the tools serve, once each, in the tools' order; several tools may share one."""
    return list(dict.fromkeys(tool.domain for tool in tools.values()))


def load_tools(path: str | Path) -> dict[str, Tool]:
    """Read a tools file and return its tools by name, in the file's order.

    An entry is flat, `{"name": ..., "description": ..., "parameters": ...}`, or has OpenAI's form,
    `{"type": "function", "function": {...}}`, Anthropic's or MCP's (see `forms`); all may add a `"domain"` (else the
    name), `"examples"` and `"call_examples"`. A tool without `"parameters"` takes none. OpenAI's `"strict"` changes
    nothing: calls are always judged strictly. A name that no call can write is written otherwise, and kept beside.

    Args:
        path: The file, or `module:name` of Python functions; then the module is imported, which runs its code.

    Raises:
        ToolsError: The file cannot be read, is not JSON, or holds something that is not a usable tool.

    Example:
        >>> load_tools("data/tools.json")["calculator"].domain
        'math'
    """
    if names_functions(path):
        try:
            return tools_from_json(function_entries(str(path)), path)
        except ValueError as error:
            raise ToolsError(f"{path}: {error}") from error
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ToolsError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:  # json names the line
        raise ToolsError(f"{path} is not JSON ({error}): correct it there") from error
    return tools_from_json(entries, path)


def tools_from_json(entries: Any, where: str | Path) -> dict[str, Tool]:
    """Return the tools of a file's content, as `load_tools` does; `where` names it in errors."""
    entries = listed(entries)
    _require(isinstance(entries, list) and entries, where, "make it a JSON list with at least one tool")
    tools: dict[str, Tool] = {}
    for number, entry in enumerate(entries, 1):
        tool = _from_entry(entry, f"{where}, entry {number}", tools)
        tools[tool.name] = tool
    return tools


def tools_to_json(tools: dict[str, Tool]) -> list[dict[str, Any]]:
    """Return tools as a file's content; `tools_from_json` reads it back."""
    entries = []
    for tool in tools.values():
        calls = {"call_examples": _written(tool.call_examples)} if tool.call_examples else {}
        entries.append(
            tool.schema() | {"name": tool.own_name, "domain": tool.domain, "examples": _written(tool.examples)} | calls
        )
    return entries


def _written(examples: tuple[Example, ...]) -> list[dict[str, Any]]:
    return [{key: part for key, part in vars(example).items() if part is not None} for example in examples]


def check_call(call: ToolCall, tools: dict[str, Tool]) -> tuple[bool, bool]:
    """Return whether the call's tool is known, and whether its arguments fit the tool's schema.

    They fit if the required ones are there, the types are right and none is unknown; a schema allows unknown
    ones only by its own `additionalProperties`. No arguments fit an unknown tool.

    Example:
        >>> check_call(ToolCall("calculator", {"expression": 2}), load_tools("data/tools.json"))
        (True, False)
    """
    tool = tools.get(call.name)
    return tool is not None, tool is not None and fits_schema(call.arguments, tool.parameters)


def render_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call as the model does; `parse_tool_calls` reads it back.

    Raises:
        ValueError: The tool's name cannot be written, or a value has no JSON form.

    Example:
        >>> render_call("find", {"query": "tea", "min-price": 3, "max price": None})
        'find(query="tea", min-price=3, **{"max price": None})'
    """
    if not TOOL_NAME.fullmatch(name):
        raise ValueError(f"cannot write a call of {name!r}: use letters, digits, _, - and . in a tool's name")
    return f"{name}({', '.join(_argument(key, _literal(value)) for key, value in arguments.items())})"


def signature(tool: Tool) -> str:
    """Write a tool's name and the names of its arguments, one that no call can write plainly in quotes.

    Example:
        >>> signature(load_tools("data/tools.json")["translator"])
        'translator(text, target_language)'
    """
    schema, _ = without_reference(tool.parameters, schema_resolver(tool.parameters))
    names = (key if ARGUMENT_NAME.fullmatch(key) else _literal(key) for key in schema.get("properties", {}))
    return f"{tool.name}({', '.join(names)})"


def names_in_words(tools: dict[str, Tool]) -> str:
    """Return the tools' names in calls, each with what its file calls it where that is another."""
    return ", ".join(tool.name + (f" (for {tool.given_name!r})" if tool.given_name else "") for tool in tools.values())


def _argument(key: str, literal: str) -> str:
    """Write one argument: `**` takes the names that cannot stand in front of a `=`, as in Python."""
    return f"{key}={literal}" if ARGUMENT_NAME.fullmatch(key) else f"**{{{_literal(key)}: {literal}}}"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)  # as in Python; inside a list or dict, JSON's true and null are read as well
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _from_entry(entry: Any, where: str, others: dict[str, Tool]) -> Tool:
    _require(isinstance(entry, dict), where, 'make it an object with "name" and "parameters"')
    half = half_character(json.dumps(entry, ensure_ascii=False))
    _require(not half, where, f"{half} is half a character, write the whole character, or remove it")
    if "function" in entry:
        is_openai = entry.get("type") == "function" and isinstance(entry["function"], dict)
        _require(is_openai, where, 'a "function" must be an object beside "type": "function"')
        entry = entry["function"] | {key: entry[key] for key in entry if key != "function"}
    entry, given = flat(entry), entry.get("name")
    name = written_name(given) if isinstance(given, str) else ""
    _require(name, where, f'"name" is {given!r:.60}, use letters, digits, _, - and ., as in web_search')
    where = f"{where} ({name:.60})"
    _require(name not in others, where, "this name is taken, choose another")
    _require_known(entry, where, KNOWN_KEYS)
    _require(entry.get("type", "function") == "function", where, 'make the "type" "function", or leave it out')
    _require(entry.get("strict") in (None, True, False), where, 'make "strict" true or false, or leave it out')
    description, domain = entry.get("description"), entry.get("domain", name)
    description = "" if description is None else description
    _require(isinstance(description, str), where, 'make the "description" a string')
    _require(isinstance(domain, str) and domain, where, 'make the "domain" a word, or leave it out')
    parameters = _parameters(entry.get("parameters"), where)
    examples = _examples(entry, "examples", f"{where}, example", parameters)
    calls = _examples(entry, "call_examples", f"{where}, call example", parameters)
    for number, example in enumerate(calls, 1):
        _require(example.arguments is not None, f"{where}, call example {number}", 'give it "arguments"')
    return Tool(name, description, parameters, domain, examples, calls, "" if given == name else given)


def _examples(entry: dict[str, Any], key: str, where: str, parameters: dict[str, Any]) -> tuple[Example, ...]:
    examples = entry.get(key, [])
    _require(isinstance(examples, list), where, f'make "{key}" a list, or leave it out')
    return tuple(_example(item, f"{where} {number}", parameters) for number, item in enumerate(examples, 1))


def _parameters(parameters: Any, where: str) -> dict[str, Any]:
    if parameters in (None, {}):
        return {"type": "object", "properties": {}}
    as_object = 'make "parameters" a JSON schema with "type": "object"'
    _require(isinstance(parameters, dict), where, as_object)
    try:
        check_schema(parameters)
    except UnusableSchema as error:
        raise ToolsError(f'{where}: the JSON schema in "parameters": {error}') from error
    schema, _ = without_reference(parameters, schema_resolver(parameters))
    _require(schema.get("type") == "object", where, as_object)
    return parameters


def _example(example: Any, where: str, parameters: dict[str, Any]) -> Example:
    _require(isinstance(example, dict), where, 'make it an object with a "request"')
    _require_known(example, where, ("request", "arguments", "answer"))
    request, arguments, answer = map(example.get, ("request", "arguments", "answer"))
    _require(isinstance(request, str) and request, where, 'make the "request" a text')
    _require((arguments is None) != (answer is None), where, 'give either "arguments" or an "answer"')
    _require(answer is None or (isinstance(answer, str) and answer), where, 'make the "answer" a text')
    fits = arguments is None or (isinstance(arguments, dict) and fits_schema(arguments, parameters))
    _require(fits, where, 'make the "arguments" fit the tool\'s "parameters"')
    return Example(request, arguments, answer)


def _require_known(entry: dict[str, Any], where: str, known: tuple[str, ...]) -> None:
    for key in entry:
        _require(key in known, where, f"remove the unknown key {key!r:.60} (known: {', '.join(known)})")


def _require(condition: Any, where: str | Path, advice: str) -> None:
    if not condition:
        raise ToolsError(f"{where}: {advice}")
