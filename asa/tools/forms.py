"""Forms: tools as others write them, brought into one form.

A tool may be written flat, as OpenAI, Anthropic (`input_schema`) or the Model Context Protocol (`inputSchema`, also as
the whole answer to `tools/list`) write it, or be a Python function. Nothing is checked here but how a name can be
written; importing a module runs its code.
"""

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asa.tools.calls import TOOL_NAME

FUNCTIONS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:name
SCHEMAS = ("input_schema", "inputSchema")
NOT_SHOWN = ("title", "annotations", "outputSchema", "icons", "_meta", "execution", "cache_control", "return")


def listed(content: Any) -> Any:
    """The entries of a tools file, where MCP's answer to `tools/list` holds them too."""
    for key in ("result", "tools"):
        if isinstance(content, dict) and key in content:
            content = content[key]
    return content


def flat(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with its schema as `parameters`, without what concerns no call.

    >>> flat({"name": "f", "inputSchema": {"type": "object"}, "title": "F"})
    {'name': 'f', 'parameters': {'type': 'object'}}
    """
    if entry.get("type") == "custom":  # what Anthropic calls a tool of one's own
        entry = {key: value for key, value in entry.items() if key != "type"}
    known = {key: value for key, value in entry.items() if key not in NOT_SHOWN}
    return {"parameters" if key in SCHEMAS else key: value for key, value in known.items()}


def written_name(name: str) -> str:
    """A tool's name as a call can write it; one without a letter or digit becomes "".

    >>> written_name("get weather/v2"), written_name("web-search"), written_name("?")
    ('get_weather_v2', 'web-search', '')
    """
    return name if TOOL_NAME.fullmatch(name) else re.sub(r"\W+", "_", name).strip("_")


def names_functions(place: str | Path) -> bool:
    """Whether `place` is `module:name` rather than a file."""
    return FUNCTIONS.fullmatch(str(place)) is not None and not os.path.exists(place)


def functions_at(place: str) -> dict[str, Callable]:
    """Python functions by name.

    Args:
        place: `module:name` of a function, a list of them, or a mapping from names to them.

    Raises:
        ValueError: They cannot be had; the message says why.
    """
    if not FUNCTIONS.fullmatch(place):
        raise ValueError("is no module:name, give one, such as my_module:functions")
    module, name = place.split(":")
    try:
        with _from_here():
            found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is a program
        raise ValueError(f"cannot be imported ({type(error).__name__}: {error}), correct the module") from error
    if not isinstance(found, dict):
        functions = found if isinstance(found, list | tuple) else [found]
        found = {getattr(function, "__name__", repr(function)): function for function in functions}
    for function in found.values():
        if not callable(function):
            raise ValueError(f"holds {function!r}, make it a function, a list of functions or a mapping to them")
    return found


def function_entries(place: str) -> list[dict[str, Any]]:
    """The entries of Python functions, by their type hints and docstrings.

    Args:
        place: As of `functions_at`.

    Raises:
        ValueError: They cannot be had, or say too little of themselves.
    """
    functions, entries = functions_at(place), []
    from transformers.utils import get_json_schema  # slow to load, and needed here alone

    for named, function in functions.items():
        try:
            entries.append(get_json_schema(function))
        except Exception as error:
            raise ValueError(f"{named} says too little ({error}), give it type hints and a docstring") from error
    return entries


@contextlib.contextmanager
def _from_here() -> Iterator[None]:
    """Modules of the working directory can be imported."""
    here = os.getcwd()  # a module may leave it
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
