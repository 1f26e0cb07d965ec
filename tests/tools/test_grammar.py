"""Grammars of calls: every finished call is a valid one, and every valid call can be written."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from asa.languages.patterns import LONGEST
from asa.languages.reading import after_text, ends, shortest
from asa.languages.trees import NOTHING
from asa.tools import check_call, parse_tool_calls, render_call, tools_from_json
from asa.tools.definitions import ToolsError
from asa.tools.grammar import FORMS, MARKERS, call_grammar, call_language

BYTES = LLTokenizer("byte")
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def tool_of(parameters, name="do.it"):
    return tools_from_json([{"name": name, "parameters": parameters}], "test")


def matcher_of(grammar):
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(matcher, text):
    matcher.reset()
    written = list(text.encode())
    return matcher.try_consume_tokens(written) == len(written) and matcher.is_accepting()


def walk(matcher, rng, most=4000):
    """A text by a random way through the mask, which takes what ends values more often than not."""
    matcher.reset()
    written = bytearray()
    while not (matcher.is_accepting() and rng.random() < 0.5) and not matcher.is_stopped():
        assert len(written) < most
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        allowed = [byte for byte in range(256) if mask >> byte & 1]
        assert allowed, bytes(written)
        closing = [byte for byte in b"\"')]}" if byte in allowed]
        taken = rng.choice(closing) if closing and rng.random() < 0.6 else rng.choice(allowed)
        assert matcher.consume_token(taken)
        written.append(taken)
    return written.decode()


def valid(text, tools):
    calls = parse_tool_calls(f"{MARKERS[0]}{text}{MARKERS[1]}", tools)
    return bool(calls) and all(check_call(call, tools) == (True, True) for call in calls)


ODD = "ab'\"\\\n<é"  # what a string must escape, and what not
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
whole = st.integers(-(10**9), 10**9)
real = st.floats(-1e6, 1e6, allow_nan=False)
anything = st.recursive(
    st.none() | st.booleans() | whole | real | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
names = st.sampled_from(["city", "from", "class", "min-price", "max price", "x_1", 'quo"ted', "ünit"])


@st.composite
def of_strings(draw):
    low, high = sorted(draw(st.tuples(st.integers(0, 5), st.integers(0, 8))))
    return draw(
        st.sampled_from(
            [
                ({"type": "string"}, texts),
                ({"type": "string", "minLength": low, "maxLength": high}, st.text(ODD, min_size=low, max_size=high)),
                ({"type": "string", "pattern": r"^[A-Z]{2}\d{1,3}$"}, st.from_regex(r"\A[A-Z]{2}[0-9]{1,3}\Z")),
                ({"type": "string", "pattern": r"b\W+"}, st.from_regex(r"\A[ab\"\\]{0,3}b\W{1,3}\Z")),
                ({"type": "string", "pattern": "^[a'\"]*$", "minLength": 2}, st.text("a'\"", min_size=2, max_size=9)),
                ({"type": "string", "format": "date"}, st.dates().filter(lambda day: 1000 <= day.year < 3000).map(str)),
                ({"type": "string", "format": "uuid"}, st.uuids().map(str)),
                ({"type": "string", "format": "ipv4"}, st.ip_addresses(v=4).map(str)),
            ]
        )
    )  # fmt: skip


@st.composite
def of_numbers(draw):
    kind = draw(st.sampled_from(["integer", "number"]))
    values = whole if kind == "integer" else real
    low, high = sorted(round(draw(values), 3) + 0 for _ in range(2))  # few digits, as people write bounds
    limits, inside = {}, {}
    if draw(st.booleans()):
        limits["minimum"] = inside["min_value"] = low
    if draw(st.booleans()):
        limits["maximum"] = inside["max_value"] = high
    if kind == "integer":
        return {"type": kind, **limits}, st.integers(inside.get("min_value", -(10**9)), inside.get("max_value", 10**9))
    inside = {"min_value": inside.get("min_value", -1e6), "max_value": inside.get("max_value", 1e6)}
    return {"type": kind, **limits}, st.floats(**inside)


def of_objects(inner):
    @st.composite
    def build(draw):
        parts = draw(st.dictionaries(names, inner, max_size=4))
        required = [key for key in parts if draw(st.booleans())]
        schema = {"type": "object", "properties": {key: part for key, (part, _) in parts.items()}, "required": required}
        values = {key: value for key, (_, value) in parts.items()}
        made = st.fixed_dictionaries(
            {key: values[key] for key in required}, optional={key: values[key] for key in parts if key not in required}
        )
        return schema, made.flatmap(
            lambda one: st.permutations(list(one)).map(lambda keys: {key: one[key] for key in keys})
        )

    return build()


simple = of_strings() | of_numbers() | st.sampled_from(
    [
        ({"type": "boolean"}, st.booleans()),
        ({"type": "null"}, st.none()),
        ({"enum": ["a", "it's", 'x"y', 3, None, [1, "b"]]}, st.sampled_from(["a", "it's", 'x"y', 3, None, [1, "b"]])),
        ({"const": "now"}, st.just("now")),
        ({"type": ["string", "null"], "maxLength": 3}, st.none() | st.text("xyz", max_size=3)),
        ({"anyOf": [{"type": "integer", "minimum": 3}, {"type": "string"}]}, st.integers(3, 99) | texts),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, st.dictionaries(texts, whole, max_size=3)),
        ({}, anything),
    ]
)  # fmt: skip


def of_lists(inner):
    def sized(pair, low, high):
        return {"type": "array", "items": pair[0], "minItems": low, "maxItems": high}, st.lists(
            pair[1], min_size=low, max_size=high
        )

    return st.builds(lambda pair, low, more: sized(pair, low, low + more), inner, st.integers(0, 2), st.integers(0, 2))


schemas = of_objects(simple | of_lists(simple) | of_objects(simple))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(schema=schemas, seed=st.integers(0, 2**32))
@FEW
@pytest.mark.shows("Whatever the grammar of a random schema lets through is read and fits the schema")
def test_a_finished_call_is_valid_and_fits(form, schema, seed):
    tools = tool_of(schema[0])
    text = walk(matcher_of(call_grammar(tools, form)), random.Random(seed))
    assert valid(text, tools), text


@pytest.mark.slow
@given(data=st.data())
@FEW
@pytest.mark.shows("Every call that fits a random schema can be written under its grammar")
def test_every_valid_call_can_be_written(data):
    schema, arguments = data.draw(schemas)
    tools, given_ones = tool_of(schema), data.draw(arguments)
    if not check_call(parse_tool_calls(f"{MARKERS[0]}[{render_call('do.it', given_ones)}]{MARKERS[1]}")[0], tools)[1]:
        return
    text = f"[{render_call('do.it', given_ones)}]"
    assert accepts(matcher_of(call_grammar(tools)), text), text
    text = json.dumps({"name": "do.it", "arguments": given_ones}, ensure_ascii=False)
    assert accepts(matcher_of(call_grammar(tools, "json")), text), text


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@given(schema=schemas, seed=st.integers(0, 2**32))
@FEW
def test_a_call_can_be_closed_anywhere(form, schema, seed):
    """What is written plus the shortest way to end it is a valid call, and the matcher takes it."""
    tools, rng = tool_of(schema[0]), random.Random(seed)
    matcher, language = matcher_of(call_grammar(tools, form)), call_language(tools, form)
    text = walk(matcher, rng)
    begun = text[: rng.randrange(len(text) + 1)]
    left = after_text(language, begun)
    assert left != NOTHING
    closed = begun + shortest(left)
    assert ends(after_text(language, closed))
    assert accepts(matcher, closed) and valid(closed, tools), closed


@pytest.mark.parametrize("form", FORMS)
def test_a_copied_string_with_a_format_is_a_word_of_the_request(form):
    """Where the request says one that has the format; else any that has it."""
    tools = tool_of({
        "type": "object", "properties": {"to": {"type": "string", "format": "language", "x-copy": True}},
        "required": ["to"],
    })  # fmt: skip

    def may_say(language, request):
        call = (
            f'[do.it(to="{language}")]'
            if form == "pythonic"
            else f'{{"name": "do.it", "arguments": {{"to": "{language}"}}}}'
        )
        return accepts(matcher_of(call_grammar(tools, form, request)), call)

    asked = 'How is "Germanic" said in French, or in "Haitian Creole"?'
    assert may_say("French", asked) and may_say("Haitian Creole", asked)
    assert not may_say("German", asked) and not may_say("Danish", asked) and not may_say("Haitian", asked)
    assert may_say("Danish", "how is that said elsewhere?") and not may_say("Elsewhere", "how is that said elsewhere?")
    assert may_say("Danish", None)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("piece", ["a", "<|tool_call_start|", "<", "<|im_end", "\\\\", "é"])
@pytest.mark.shows("A model that repeats itself for ever ends its call all the same")
def test_no_string_goes_on_without_end(form, piece):
    """Not even one that begins a marker again and again, as a looping model does."""
    tools = tool_of({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    begun = '[do.it(a="' if form == "pythonic" else '[{"name":"do.it","arguments":{"a":"'
    rest = '")]' if form == "pythonic" else '"}}]'
    most = LONGEST // len(piece.replace("\\\\", "_"))
    language = call_language(tools, form)
    for count, allowed in ((most, True), (most + 1, False)):
        text = begun + piece * count + rest
        assert accepts(matcher_of(call_grammar(tools, form)), text) is allowed
        assert (after_text(language, text) != NOTHING) is allowed


NESTED = {"type": "integer"}
for _ in range(6):
    NESTED = {"type": "array", "items": NESTED, "minItems": 50}
MANY = {"type": "string"}
for _ in range(3):  # what stands beside the options is said of each
    MANY = {"type": "array", "items": MANY, "anyOf": [{}] * 1000}
DOUBLING = {
    f"D{depth}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/D{depth + 1}"} for name in "abcdefghij"}}
    for depth in range(7)
} | {"D7": {"type": "string"}}  # 10**7 strings


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        ({"type": "string", "minLength": 2 * 10**10}, "takes more than 10000 characters"),
        ({"type": "string", "pattern": "^a{4294967290}$"}, "takes more than 10000 characters"),
        ({"type": "string", "minLength": 3000, "pattern": "^(ab|c)+$"}, "was found in time"),
        (
            {"type": "array", "items": {}, "minItems": 10**10},
            "takes more than 10000 characters",
        ),
        (NESTED, "takes more than 10000 characters"),
        ({"type": ["array", "string"], "items": {"type": "string", "minLength": 10**5}}, "takes more than 10000"),
        (MANY, "its schema has more than 5000 parts"),
        ({"$ref": "#/$defs/D0"}, "its schema has more than 5000 parts"),
    ],
)
@pytest.mark.shows("A few lines of a schema cannot make a machine run out of memory or time")
@pytest.mark.parametrize("required", [["a"], []])
def test_a_schema_without_measure_is_refused(inner, said, required):
    """Anyone may send one to a server."""
    tools = tool_of({"type": "object", "properties": {"a": inner}, "required": required, "$defs": DOUBLING})
    with pytest.raises(ToolsError, match=rf"^tool do.it: .*{said}"):
        call_grammar(tools)


def test_a_bound_that_need_not_be_reached_is_no_fault():
    tools = tool_of({"type": "object", "properties": {"a": {"type": "string", "maxLength": 10**12}}, "required": ["a"]})
    assert accepts(matcher_of(call_grammar(tools)), '[do.it(a="x")]')
