"""The tools file: what is accepted, what is refused with which words, and calls judged and written."""

import json
import random
from pathlib import Path

import pytest

from asa.tools.calls import ToolCall
from asa.tools.definitions import (
    Example,
    ToolsError,
    check_call,
    domains_of,
    load_tools,
    names_in_words,
    render_call,
    signature,
    tools_from_json,
    tools_to_json,
)
from asa.tools.parser import parse_tool_calls

TOOLS = Path(__file__).parents[2] / "data" / "tools.json"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
GOOD = {"name": "f", "parameters": SCHEMA}


def load(tmp_path: Path, content) -> dict:
    """Load what was written to a file."""
    path = tmp_path / "tools.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return load_tools(path)


def test_the_shipped_tools():
    """Four tools, each with a request that needs it and one that does not."""
    tools = load_tools(TOOLS)
    assert [(tool.name, tool.domain) for tool in tools.values()] == [
        ("calculator", "math"),
        ("python_interpreter", "code"),
        ("web_search", "search"),
        ("translator", "translation"),
    ]
    for tool in tools.values():
        called, answered = tool.examples
        assert called.answer is None and answered.arguments is None
        assert check_call(ToolCall(tool.name, called.arguments), tools) == (True, True)
        assert tool.schema().keys() == {"name", "description", "parameters"}
    assert tools["calculator"].examples[0] == Example("What is 23% of 1840?", {"expression": "0.23*1840"})


def test_flat_and_openai_entries(tmp_path):
    """Both forms give the same tool, and what may be left out has a default."""
    examples = [{"request": "r", "arguments": {"a": 1}}, {"request": "s", "answer": "t"}]
    more = {"domain": "d", "examples": examples}
    flat = load(tmp_path, [GOOD | more])
    assert flat == load(tmp_path, [{"type": "function", "function": GOOD} | more])
    assert flat["f"].examples == (Example("r", {"a": 1}), Example("s", answer="t"))
    assert load(tmp_path, [GOOD])["f"].domain == "f"


def test_examples_of_calls_are_kept_apart(tmp_path):
    """They are no part of what every prompt shows, and a file without them is written as before."""
    calls = [{"request": "r", "arguments": {"a": 1}}]
    tools = load(tmp_path, [GOOD | {"call_examples": calls}])
    assert tools["f"].examples == () and tools["f"].call_examples == (Example("r", {"a": 1}),)
    assert tools_from_json(tools_to_json(tools), "x") == tools
    assert "call_examples" not in tools_to_json(load(tmp_path, [GOOD]))[0]


def test_openais_entries_are_taken_as_they_are(tmp_path):
    """With "strict", inside or beside or flat; no description or parameters, null or left out."""
    bare = load(tmp_path, [{"name": "f"}])
    assert bare["f"].parameters == {"type": "object", "properties": {}} and bare["f"].description == ""
    assert check_call(ToolCall("f", {}), bare) == (True, True)
    assert check_call(ToolCall("f", {"a": 1}), bare) == (True, False)
    assert tools_from_json(tools_to_json(bare), "x") == bare
    for none in ({"parameters": None}, {"parameters": {}}, {"description": None}, {"strict": None}):
        assert load(tmp_path, [{"name": "f"} | none]) == bare
        assert load(tmp_path, [{"type": "function", "function": {"name": "f"} | none}]) == bare
    plain = load(tmp_path, [GOOD])
    for strict in (True, False):
        for entry in (
            {"type": "function", "function": GOOD | {"strict": strict}},
            {"type": "function", "function": GOOD, "strict": strict},
            {"type": "function", "strict": strict} | GOOD,
        ):
            assert load(tmp_path, [entry]) == plain


def test_parameters_may_stand_behind_a_reference(tmp_path):
    tools = load(tmp_path, [GOOD | {"parameters": {"$ref": "#/$defs/P", "$defs": {"P": SCHEMA}}}])
    assert check_call(ToolCall("f", {"a": 1}), tools) == (True, True)
    for arguments in ({}, {"a": "1"}, {"a": 1, "b": 2}):
        assert check_call(ToolCall("f", arguments), tools) == (True, False)
    assert signature(tools["f"]) == "f(a)"


def test_signatures(tmp_path):
    """A name that stands in no call as it is stands in quotes."""
    names = ["query", "min-price", "min price", "$x", "é"]
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in names}}
    tool = load(tmp_path, [{"name": "get-it", "parameters": schema}])["get-it"]
    assert signature(tool) == 'get-it(query, min-price, "min price", "$x", é)'


def test_several_tools_may_serve_one_domain():
    tools = tools_from_json([GOOD, GOOD | {"name": "g", "domain": "f"}, GOOD | {"name": "h"}], "here")
    assert domains_of(tools) == ["f", "h"] and len(tools) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[\n{"name": "f",}]', "line 2"),
        ({"name": "f"}, "list"),
        ([], "at least one"),
        ([GOOD, 1], "entry 2"),
        ([GOOD, {"parameters": {}}], 'entry 2: "name"'),
        ([GOOD | {"name": "?!"}], "'\\?!'"),
        ([GOOD, GOOD | {"name": "f-"}], r"entry 2 \(f\): this name is taken"),
        ([GOOD | {"name": ""}], "''"),
        ([GOOD | {"name": ["f"]}], "'f'"),
        ([GOOD, GOOD], r"entry 2 \(f\): this name is taken"),
        ([GOOD | {"paramters": {}}], "'paramters'"),
        ([GOOD | {"domain": 1}], "domain"),
        ([GOOD | {"description": 1}], "description"),
        ([GOOD | {"parameters": []}], "parameters"),
        ([GOOD | {"parameters": {"properties": {}}}], "parameters"),
        ([GOOD | {"parameters": {"$ref": "#/$defs/P", "$defs": {"P": {"type": "string"}}}}], "parameters"),
        (
            [GOOD, GOOD | {"name": "g", "parameters": {"$ref": "https://x.invalid/s"}}],
            r"\(g\): .*'https://x.invalid/s'",
        ),
        (
            [GOOD | {"parameters": SCHEMA | {"required": ["b"], "items": {"$ref": "#/$defs/X"}}}],
            r"\(f\): .*'#/\$defs/X'",
        ),
        ([{"name": "f", "parameters": {"type": "string"}}], "parameters"),
        ([{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "text"}}}}], "'text'"),
        ([{"type": "tool", "function": GOOD}], "function"),
        ([GOOD | {"type": "object"}], '"type"'),
        ([{"type": "function", "function": GOOD | {"strict": "yes"}}], '"strict"'),
        ([GOOD | {"examples": {}}], "examples"),
        ([GOOD | {"call_examples": {}}], "call_examples"),
        ([GOOD | {"call_examples": [{"request": "r", "answer": "x"}]}], "call example 1: give it"),
        ([GOOD | {"call_examples": [{"request": "r", "arguments": {"a": "1"}}]}], "call example 1: make the"),
        ([GOOD | {"examples": [{"request": "r", "answer": "x"}, {"request": "r"}]}], "example 2: give"),
        ([GOOD | {"examples": [{"request": "r", "arguments": {"a": 1}, "answer": "x"}]}], "give either"),
        ([GOOD | {"examples": [{"request": "r", "arguments": {"a": "1"}}]}], "fit"),
        ([GOOD | {"examples": [{"request": "r", "arguments": {"a": 1, "b": 1}}]}], "fit"),
        ([GOOD | {"examples": [{"request": "r", "answer": ""}]}], "answer"),
        ([GOOD | {"examples": [{"answer": "x"}]}], "request"),
        ([GOOD, GOOD | {"description": "\ud83d"}], r"entry 2: \\ud83d is half a character"),
        ([GOOD | {"examples": [{"request": "r\ude42", "answer": "x"}]}], r"entry 1: \\ude42 is half a character"),
        ([GOOD | {"examples": [{"request": "r", "answer": "x", "note": 1}]}], "'note'"),
    ],
)
def test_a_mistake_is_named(tmp_path, content, words):
    """One sentence with the file, the place and what to do."""
    with pytest.raises(ToolsError, match=words) as caught:
        load(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "tools.json"))
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path):
    """Missing, a folder, or not UTF-8."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ToolsError, match=path.name):
            load_tools(path)
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(ToolsError, match=r"latin\.json"):
        load_tools(tmp_path / "latin.json")


def test_check_call(tmp_path):
    """Known name; required there, none unknown unless allowed, types right."""
    closed = load(tmp_path, [GOOD])
    assert check_call(ToolCall("f", {"a": 1}), closed) == (True, True)
    assert check_call(ToolCall("g", {"a": 1}), closed) == (False, False)
    for arguments in ({}, {"a": "1"}, {"a": True}, {"a": None}, {"a": 1, "b": 2}):
        assert check_call(ToolCall("f", arguments), closed) == (True, False)
    opened = load(tmp_path, [GOOD | {"parameters": SCHEMA | {"additionalProperties": True}}])
    assert check_call(ToolCall("f", {"a": 1, "b": 2}), opened) == (True, True)


def test_render_call():
    """What the model writes, and nothing it could not."""
    assert render_call("calculator", {"expression": "0.23*1840"}) == 'calculator(expression="0.23*1840")'
    assert render_call("a.b", {"x": None, "y": True, "z": "é\n\"'"}) == 'a.b(x=None, y=True, z="é\\n\\"\'")'
    awkward = {
        "min-price": 3,
        "min price": None,
        "": True,
        "a.b": '"',
        "$x": {"y z": [None]},
        "2nd": 1,
        "a-": 0,
        "é": 1,
    }
    assert render_call("get-it", awkward) == (
        'get-it(min-price=3, **{"min price": None}, **{"": True}, **{"a.b": "\\""}, **{"$x": {"y z": [null]}}, 2nd=1, '
        '**{"a-": 0}, é=1)'
    )
    for name, arguments in (("f g", {}), ("f-", {}), ("", {}), ("f", {"a": float("inf")})):
        with pytest.raises(ValueError):
            render_call(name, arguments)


def random_value(generator: random.Random, depth: int = 0):
    """Return a JSON value with awkward strings."""
    letters = "ab '\"\\\n\t\r\0{}[](),=:#/nux07é日🚉\u2028\x7f\ud800"
    text = "".join(generator.choices(letters, k=generator.randint(0, 12)))
    if depth < 3 and generator.random() < 0.3:
        items = [random_value(generator, depth + 1) for _ in range(3)]
        return generator.choice([items, dict(zip((text, "b", "c"), items, strict=True))])
    others = [generator.randint(-(10**20), 10**20), generator.gauss(0, 1e9), 1e-300, True, False, None]
    return generator.choice([text, text, *others])


def test_the_parser_reads_what_render_call_writes():
    """Random arguments come back as they were."""
    generator = random.Random(0)
    for _ in range(2000):
        arguments = {key: random_value(generator) for key in ("a", "from", "x_1")}
        text = f"<|tool_call_start|>[{render_call('f.g', arguments)}, h()]<|tool_call_end|>"
        assert parse_tool_calls(text) == [ToolCall("f.g", arguments), ToolCall("h", {})]


def test_any_names_come_back(tmp_path):
    """From the file through a written call to a judged one, whatever JSON calls an argument or OpenAI a tool."""
    generator = random.Random(1)
    letters = "ab_-1 .$é日'\"\\\n(){}[]=,:*#·²℘"
    for _ in range(300):
        name = "-".join("".join(generator.choices("abc_XY12", k=generator.randint(1, 4))) for _ in range(3))
        keys = ["".join(generator.choices(letters, k=generator.randint(0, 5))) for _ in range(4)]
        arguments = {key: random_value(generator) for key in keys}
        schema = {"type": "object", "properties": dict.fromkeys(arguments, True), "required": list(arguments)}
        tools = tools_from_json([{"name": name, "parameters": schema}], "t.json")
        text = f"<|tool_call_start|>[{render_call(name, arguments)}, h()]<|tool_call_end|>"
        first, second = parse_tool_calls(text)
        assert (first, second) == (ToolCall(name, arguments), ToolCall("h", {}))
        assert check_call(first, tools) == (True, True)


def test_a_name_is_said_as_calls_have_it_and_as_its_file_does_where_that_is_another():
    tools = tools_from_json([{"name": "get weather"}, {"name": "mail"}], "tools")
    assert names_in_words(tools) == "get_weather (for 'get weather'), mail"
