"""Tools: their definitions, their JSON schemas, and the calls that a model writes; torch is not needed here."""

from asa.tools.calls import ToolCall, ToolCallError
from asa.tools.definitions import (
    Example,
    Tool,
    ToolsError,
    check_call,
    load_tools,
    render_call,
    tools_from_json,
    tools_to_json,
)
from asa.tools.grammar import call_grammar
from asa.tools.parser import parse_tool_calls

__all__ = [
    "Example",
    "Tool",
    "ToolCall",
    "ToolCallError",
    "ToolsError",
    "call_grammar",
    "check_call",
    "load_tools",
    "parse_tool_calls",
    "render_call",
    "tools_from_json",
    "tools_to_json",
]
