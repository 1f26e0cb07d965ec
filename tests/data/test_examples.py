"""Examples: what a prompt shows leaves the pool, and plain calls fit their schemas."""

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from small_prompts import POOL, TOOLS

from asa.data.examples import plain_arguments, with_examples, without_examples
from asa.data.requests import Request, RequestsError, load_requests
from asa.data.splits import split_requests
from asa.tools.calls import ToolCall
from asa.tools.definitions import Example, Tool, check_call, load_tools, tools_from_json, tools_to_json

ROOT = Path(__file__).parents[2]


def test_a_tool_without_examples_takes_the_first_of_each_label_out_of_the_pool():
    tools, pool = with_examples(TOOLS, POOL)
    assert tools["add"] == TOOLS["add"]
    assert tools["look"].examples == (
        Example("Who won?", {"q": "Who won?"}),
        Example("Why search?", answer="I can answer that in words."),
    )
    assert pool == [POOL[0], POOL[1], POOL[2], POOL[4]]
    assert len(POOL) == 6 and TOOLS["look"].examples == ()  # neither argument is changed


def test_only_the_missing_example_is_taken():
    answered = {"add": replace(TOOLS["add"], examples=TOOLS["add"].examples[1:])}
    tools, pool = with_examples(answered, POOL)
    assert tools["add"].examples == (Example("Hi", answer="Hello"), Example("How many?", {"a": 1}))
    assert pool == POOL[1:]
    called = {"add": replace(TOOLS["add"], examples=TOOLS["add"].examples[:1])}
    tools, pool = with_examples(called, POOL)
    assert [example.request for example in tools["add"].examples] == ["1+1?", "What is a sum?"]
    assert pool == [POOL[0], *POOL[2:]]


def test_what_stands_among_the_examples_or_resembles_one_leaves_the_pool():
    """Of the file's own examples and of those taken from the pool, whatever the label; its answer is in the prompt."""
    seen = [
        Request("1+1?", 1, "math", "m:9"),
        Request("hi!", 1, "search", "s:9"),
        Request("WHO won", 1, "search", "s:1 again"),
        Request("Why  search?", 1, "math", "m:8"),
    ]
    tools, pool = with_examples(TOOLS, POOL + seen)
    assert [example.request for example in tools["look"].examples] == ["Who won?", "Why search?"]
    assert pool == [POOL[0], POOL[1], POOL[2], POOL[4]]
    assert without_examples(pool + seen, tools) == pool and without_examples(seen[2:], TOOLS) == seen[2:]


@pytest.mark.parametrize("seed", range(3))
def test_no_split_holds_what_the_prompt_answers(seed):
    """The project's own file with the tools' examples in it, as they are and slightly changed, and a line twice."""
    tools = load_tools(ROOT / "data" / "tools.json")
    own = load_requests(ROOT / "data" / "requests.jsonl")
    examples = [example.request for tool in tools.values() for example in tool.examples]
    leaks = [
        Request(text, label, "math", f"leak:{number}:{label}")
        for number, said in enumerate(examples)
        for label, text in enumerate((said, f"{said.upper()} please"))
    ]
    tools["calculator"] = replace(tools["calculator"], examples=tools["calculator"].examples[1:])
    drawn = next(request for request in own if (request.domain, request.label) == ("math", 1))
    filled, pool = with_examples(tools, [*own, *leaks, replace(drawn, source="twice")])
    assert filled["calculator"].examples[-1].request == drawn.text
    assert pool == [request for request in own if request != drawn] + leaks[:2]  # the example that was taken out
    splits = split_requests(pool, seed)
    texts = {request.text for rows in splits.values() for request in rows}
    assert texts.isdisjoint([*examples[1:], drawn.text])


def test_the_project_s_requests_resemble_no_example():
    """So its splits and scores are what they were before examples were kept out."""
    tools = load_tools(ROOT / "data" / "tools.json")
    for file in ("requests.jsonl", "held_out.jsonl"):
        given = load_requests(ROOT / "data" / file)
        assert without_examples(given, tools) == given


@pytest.mark.parametrize("label", [0, 1])
def test_a_tool_without_an_example_or_a_request_for_one_is_named(label):
    pool = [request for request in POOL if (request.domain, request.label) != ("search", label)]
    with pytest.raises(RequestsError, match=f"tool 'look' has no example and no request with label {label}"):
        with_examples(TOOLS, pool)


def test_a_tool_that_shares_its_domain_brings_its_own_call():
    """A request of the domain does not say which tool it needs; one that needs none serves both."""
    tools = TOOLS | {"seek": replace(TOOLS["look"], name="seek")}
    with pytest.raises(RequestsError, match=r"tool 'look' shares its domain, .* give its tools entry an example call"):
        with_examples(tools, POOL)
    calls = {name: (Example(f"{name} it", {"q": "it"}),) for name in ("look", "seek")}
    both = {name: replace(tool, examples=calls.get(name, tool.examples)) for name, tool in tools.items()}
    pool = [*POOL, Request("Why do we seek?", 0, "search", "pool:7")]
    filled, left = with_examples(both, pool)
    assert [filled[name].examples[1].request for name in calls] == ["Why search?", "Why do we seek?"]
    assert len(left) == len(pool) - 2


def test_filled_examples_survive_the_adapters_config():
    """A saved adapter's tools are checked when they are read; an example that does not fit would make it useless."""
    tools, _ = with_examples(TOOLS, POOL)
    assert tools_from_json(tools_to_json(tools), "config.json") == tools


def test_a_schema_that_no_plain_call_fits_asks_for_an_example():
    strict = {"type": "object", "properties": {"q": {"type": "string", "pattern": "^[A-Z]{3}$"}}, "required": ["q"]}
    with pytest.raises(RequestsError, match=r"tool 'look'.*example"):
        with_examples({"look": replace(TOOLS["look"], parameters=strict)}, POOL)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string"}, "hello"),
        ({"type": "number"}, 1),
        ({"type": "integer"}, 1),
        ({"type": "boolean"}, True),
        ({"type": "array", "items": {"type": "string"}}, []),
        ({"type": "object"}, {}),
        ({"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}, {"x": True}),
        ({"type": "string", "enum": ["metric", "imperial"]}, "metric"),
        ({"enum": [3, 4]}, 3),
        ({"const": 7}, 7),
        ({"type": ["integer", "null"]}, 1),
        ({"type": "null"}, None),
        ({"description": "anything"}, "hello"),
        (True, "hello"),
    ],
)
def test_plain_arguments_fit_their_schema(schema, expected):
    """The required ones only; and a call with them is written and read back."""
    parameters = {"type": "object", "properties": {"p": schema, "spare": {"type": "string"}}, "required": ["p"]}
    arguments = plain_arguments(parameters, "hello")
    assert arguments == {"p": expected} and type(arguments["p"]) is type(expected)
    jsonschema.validate(arguments, parameters)
    assert check_call(ToolCall("f", arguments), {"f": Tool("f", "", parameters, "d")}) == (True, True)


@pytest.mark.parametrize("required", [["left"], ["left", "right"]])
def test_a_tool_whose_plain_call_never_ends_asks_for_an_example(required):
    tree = {"type": "object", "properties": {key: {"$ref": "#"} for key in ("left", "right")}, "required": required}
    tools = tools_from_json([{"name": "look", "parameters": tree, "domain": "search"}], "t.json")
    with pytest.raises(RequestsError, match=r"tool 'look'.*example"):
        with_examples(tools, POOL)


def test_plain_arguments_without_required_ones_are_none():
    assert plain_arguments({"type": "object", "properties": {"p": {"type": "string"}}}, "hello") == {}
    assert plain_arguments({"type": "object", "required": ["p"]}, "hello") == {"p": "hello"}
