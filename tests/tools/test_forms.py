"""Forms: tools as others write them give the same tool, and names that no call can write come back as they were."""

import json
import sys

import pytest

from asa.tools.definitions import Tool, ToolsError, load_tools, tools_from_json, tools_to_json
from asa.tools.forms import functions_at, names_functions

SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
FLAT = {"name": "weather", "description": "Weather at a place.", "parameters": SCHEMA}
SAME = {"weather": Tool("weather", "Weather at a place.", SCHEMA, "weather")}
OPENAI = {"type": "function", "function": FLAT}
ANTHROPIC = {"name": "weather", "description": "Weather at a place.", "input_schema": SCHEMA, "cache_control": {}}
MCP = {
    "name": "weather", "title": "Weather", "description": "Weather at a place.", "inputSchema": SCHEMA,
    "annotations": {"readOnlyHint": True}, "outputSchema": {"type": "object"}, "_meta": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        [FLAT], [OPENAI], [ANTHROPIC], [ANTHROPIC | {"type": "custom"}], [MCP], {"tools": [MCP]},
        {"jsonrpc": "2.0", "id": 1, "result": {"tools": [MCP], "nextCursor": "x"}}, [FLAT | {"return": {}}],
    ],
)  # fmt: skip
def test_every_form_gives_the_same_tool(content, tmp_path):
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(content))
    assert load_tools(path) == SAME


def test_a_name_that_no_call_can_write_is_kept_beside():
    """There and back; two that become one are refused."""
    tools = tools_from_json([FLAT | {"name": "get weather/v2"}], "file")
    assert list(tools) == ["get_weather_v2"] and tools["get_weather_v2"].own_name == "get weather/v2"
    written = tools_to_json(tools)
    assert written[0]["name"] == "get weather/v2" and tools_from_json(written, "again") == tools
    with pytest.raises(ToolsError, match=r"entry 2 \(a_b\): this name is taken"):
        tools_from_json([FLAT | {"name": "a b"}, FLAT | {"name": "a/b"}], "file")


MODULE = """
def weather(place: str) -> str:
    \"\"\"
    Weather at a place.

    Args:
        place: Where.
    \"\"\"

functions, table, number = [weather], {"w": weather}, 3

def silent(place): ...
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_tools.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("my_tools", None)


@pytest.mark.parametrize("name", ["weather", "functions", "table"])
def test_python_functions(module, name):
    """By their type hints and docstrings, from the working directory, which is no longer looked in afterwards."""
    pytest.importorskip("transformers")
    before = list(sys.path)
    (tool,) = load_tools(f"my_tools:{name}").values()
    assert (tool.name, tool.description, tool.domain) == ("weather", "Weather at a place.", "weather")
    assert tool.parameters["properties"] == {"place": {"type": "string", "description": "Where."}}
    assert sys.path == before


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("my_tools:number", "my_tools:number: holds 3, make it a function"),
        ("my_tools:silent", "my_tools:silent: silent says too little "),
        ("my_tools:other", "my_tools:other: cannot be imported [(]AttributeError"),
        ("no_such:f", "no_such:f: cannot be imported [(]ModuleNotFoundError"),
    ],
)
def test_what_is_no_function_is_named(module, place, said):
    if place == "my_tools:silent":
        pytest.importorskip("transformers")
    with pytest.raises(ToolsError, match=f"^{said}"):
        load_tools(place)


def test_a_file_is_a_file(tmp_path, monkeypatch):
    """Also one whose name has a colon."""
    monkeypatch.chdir(tmp_path)
    assert names_functions("a:b") and not names_functions("tools.json") and not names_functions("C:/tools.json")
    (tmp_path / "a:b").write_text(json.dumps([FLAT]))
    assert load_tools("a:b") == SAME


def test_a_module_that_leaves_the_folder_changes_nothing(tmp_path, monkeypatch):
    """Where Python looks for modules is afterwards as before."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "leaving_tools.py").write_text("import os\nos.chdir('elsewhere')\n\ndef f():\n    pass\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert functions_at("leaving_tools:f") and sys.path == before
