"""The tools: a file of schemas, and calls judged against them.

The file is a JSON list. A tool has a name, a description, a JSON schema of its arguments, and a domain: the
sort of request it serves. It may bring examples: a request that needs it, with the arguments to call it with,
or one that does not, with an answer in words. Loading checks everything: a mistake in the file is one clear
sentence now, not a wrong number later. This chapter runs no tool, and does not read a model's answer.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from asa.calls import ToolCall, ToolCallError, parse_tool_calls
from asa.files import UserError, half_character

__all__ = [  # the parser's names too: whoever works with tools needs one import
    "Example", "Tool", "ToolCall", "ToolCallError", "ToolsError", "check_call", "load_tools",
    "parse_tool_calls", "render_call", "tools_from_json", "tools_to_json",
]  # fmt: skip


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
    examples: tuple[Example, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Return the part that the model is shown."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


def load_tools(path: str | Path) -> dict[str, Tool]:
    """Read a tools file and return its tools by name, in the file's order.

    An entry is flat, `{"name": ..., "description": ..., "parameters": ...}`, or has OpenAI's form,
    `{"type": "function", "function": {...}}`; both may add a `"domain"` (else the name) and `"examples"`.

    Raises:
        ToolsError: The file cannot be read, is not JSON, or holds something that is not a usable tool.

    Example:
        >>> load_tools("data/tools.json")["calculator"].domain
        'math'
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ToolsError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except (ValueError, RecursionError) as error:  # json names the line
        raise ToolsError(f"{path} is not JSON ({error}): correct it there") from error
    return tools_from_json(entries, path)


def tools_from_json(entries: Any, where: str | Path) -> dict[str, Tool]:
    """Return the tools of a file's content, as `load_tools` does; `where` names it in errors."""
    _tool_require(isinstance(entries, list) and entries, where, "make it a JSON list with at least one tool")
    tools: dict[str, Tool] = {}
    for number, entry in enumerate(entries, 1):
        tool = _tool_from_entry(entry, f"{where}, entry {number}", tools)
        tools[tool.name] = tool
    return tools


def tools_to_json(tools: dict[str, Tool]) -> list[dict[str, Any]]:
    """Return tools as a file's content; `tools_from_json` reads it back."""
    entries = []
    for tool in tools.values():
        examples = [{key: part for key, part in vars(e).items() if part is not None} for e in tool.examples]
        entries.append(tool.schema() | {"domain": tool.domain, "examples": examples})
    return entries


def check_call(call: ToolCall, tools: dict[str, Tool]) -> tuple[bool, bool]:
    """Return whether the call's tool is known, and whether its arguments fit the tool's schema.

    They fit if the required ones are there, the types are right and none is unknown; a schema allows unknown
    ones only by its own `additionalProperties`. No arguments fit an unknown tool.

    Example:
        >>> check_call(ToolCall("calculator", {"expression": 2}), load_tools("data/tools.json"))
        (True, False)
    """
    tool = tools.get(call.name)
    return tool is not None, tool is not None and _tool_fits(call.arguments, tool.parameters)


def render_call(name: str, arguments: dict[str, Any]) -> str:
    """Write a call as the model does; `parse_tool_calls` reads it back.

    Raises:
        ValueError: A name is no identifier, or a value has no JSON form.

    Example:
        >>> render_call("calculator", {"expression": "0.23*1840"})
        'calculator(expression="0.23*1840")'
    """
    if not _tool_is_name(name) or not all(map(str.isidentifier, arguments)):
        raise ValueError(f"cannot write a call of {name!r} with {list(arguments)}: these must be identifiers")
    return f"{name}({', '.join(f'{key}={_tool_literal(value)}' for key, value in arguments.items())})"


def _tool_literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return repr(value)  # as in Python; inside a list or dict, JSON's true and null are read as well
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _tool_from_entry(entry: Any, where: str, others: dict[str, Tool]) -> Tool:
    _tool_require(isinstance(entry, dict), where, 'make it an object with "name" and "parameters"')
    half = half_character(json.dumps(entry, ensure_ascii=False))
    _tool_require(not half, where, f"{half} is half a character, write the whole character, or remove it")
    if "function" in entry:
        is_openai = entry.get("type") == "function" and isinstance(entry["function"], dict)
        _tool_require(is_openai, where, 'a "function" must be an object beside "type": "function"')
        entry = entry["function"] | {key: entry[key] for key in entry if key not in ("type", "function")}
    name = entry.get("name")
    _tool_require(_tool_is_name(name), where, f'"name" is {name!r}, use an identifier such as web_search')
    where = f"{where} ({name})"
    _tool_require(name not in others, where, "this name is taken, choose another")
    _tool_require_known(entry, where, ("name", "description", "parameters", "domain", "examples"))
    description, domain = entry.get("description", ""), entry.get("domain", name)
    _tool_require(isinstance(description, str), where, 'make the "description" a string')
    _tool_require(isinstance(domain, str) and domain, where, 'make the "domain" a word, or leave it out')
    taken = [other.domain for other in others.values()]
    _tool_require(domain not in taken, where, f'the "domain" {domain!r} is taken, choose another')
    parameters = entry.get("parameters")
    is_object = isinstance(parameters, dict) and parameters.get("type") == "object"
    _tool_require(is_object, where, 'make "parameters" a JSON schema with "type": "object"')
    try:
        jsonschema.Draft202012Validator.check_schema(parameters)
    except jsonschema.SchemaError as error:
        raise ToolsError(f'{where}: correct the JSON schema in "parameters": {error.message}') from error
    examples = entry.get("examples", [])
    _tool_require(isinstance(examples, list), where, 'make "examples" a list, or leave it out')
    read = (_tool_example(item, f"{where}, example {i}", parameters) for i, item in enumerate(examples, 1))
    return Tool(name, description, parameters, domain, tuple(read))


def _tool_example(example: Any, where: str, parameters: dict[str, Any]) -> Example:
    _tool_require(isinstance(example, dict), where, 'make it an object with a "request"')
    _tool_require_known(example, where, ("request", "arguments", "answer"))
    request, arguments, answer = map(example.get, ("request", "arguments", "answer"))
    _tool_require(isinstance(request, str) and request, where, 'make the "request" a text')
    _tool_require((arguments is None) != (answer is None), where, 'give either "arguments" or an "answer"')
    _tool_require(answer is None or (isinstance(answer, str) and answer), where, 'make the "answer" a text')
    fits = arguments is None or (isinstance(arguments, dict) and _tool_fits(arguments, parameters))
    _tool_require(fits, where, 'make the "arguments" fit the tool\'s "parameters"')
    return Example(request, arguments, answer)


def _tool_fits(arguments: dict[str, Any], parameters: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator({"additionalProperties": False, **parameters}).is_valid(arguments)


def _tool_is_name(name: Any) -> bool:
    return isinstance(name, str) and all(map(str.isidentifier, name.split(".")))


def _tool_require_known(entry: dict[str, Any], where: str, known: tuple[str, ...]) -> None:
    for key in entry:
        _tool_require(key in known, where, f"remove the unknown key {key!r} (known: {', '.join(known)})")


def _tool_require(condition: Any, where: str | Path, advice: str) -> None:
    if not condition:
        raise ToolsError(f"{where}: {advice}")
