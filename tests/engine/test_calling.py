"""Calling: calls written anew behind a decision that stands, each in a prompt of its own tools."""

from dataclasses import replace

import pytest
from small_prompts import TINY, TOOLS

import asa.engine.calling
from asa.data.requests import Request
from asa.engine.calling import CallWriter, as_called
from asa.models.answers import AnswerRules
from asa.models.prompts import Prompter
from asa.tools.calls import ToolCall
from asa.tools.definitions import Example, check_call
from asa.tools.parser import parse_tool_calls

REQUESTS = [Request(text, 1, "add", "test") for text in ("1+1?", "2+3?", "What is it?", "Hi")]


@pytest.fixture
def writer(tiny_model, tokenizer) -> CallWriter:
    prompter = Prompter(tokenizer, replace(TINY, max_new_tokens=40, words_limit=40), TOOLS)
    return CallWriter(tiny_model, prompter, AnswerRules(prompter, tiny_model))


def ids(writer, text: str) -> list[int]:
    return writer.prompter.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_only_what_stands_behind_the_trigger_is_written_anew(writer):
    """Rows that do not call stay as they are, and so does whether a row calls; every call fits and ends."""
    opened = writer.opening
    said = [opened, ids(writer, "Hello, ") + opened + ids(writer, "[nonsense"), ids(writer, "in words"), opened]
    written = writer.write(said, REQUESTS, [("add",), ("look",), ("add",), ("add", "look")])
    assert written[2] == said[2]
    assert writer.rules.called(written).tolist() == writer.rules.called(said).tolist()
    assert writer.rules.text(written[1]).startswith("Hello, ")
    for row, names in ((0, {"add"}), (1, {"look"}), (3, {"add", "look"})):
        text = writer.rules.text(written[row])
        calls = parse_tool_calls(text, TOOLS, writer.rules.markers)
        assert text.endswith(writer.rules.markers[1]) and {call.name for call in calls} <= names
        assert calls and all(check_call(call, TOOLS) == (True, True) for call in calls)
    assert "nonsense" not in writer.rules.text(written[1])
    for row, kept in ((0, opened), (1, ids(writer, "Hello, ") + opened)):  # the tokens that decided are kept
        assert written[row][: len(kept)] == kept


def test_a_request_is_written_to_once(writer, monkeypatch):
    """And the same answers come whatever was written before."""
    said = [writer.opening] * len(REQUESTS)
    held = [("add",)] * len(REQUESTS)
    written = writer.write(said, REQUESTS, held)
    monkeypatch.setattr(asa.engine.calling, "answer_chosen", None)
    assert writer.write(written, REQUESTS, held) == written


def test_a_writer_remembers_only_so_many_calls(writer, monkeypatch):
    """The latest, so that a service does not grow with every call."""
    monkeypatch.setattr(asa.engine.calling, "KEPT", 2)
    said, held = [writer.opening] * len(REQUESTS), [("add",)] * len(REQUESTS)
    written = writer.write(said, REQUESTS, held)
    assert [text for _, text, _ in writer._written] == [request.text for request in REQUESTS[-2:]]
    assert writer.write(said, REQUESTS, held) == written


def test_a_call_is_written_in_a_prompt_of_its_own(writer, monkeypatch):
    """It lists only the tools that it may name, and shows their examples of calls; without one it is the deciding."""
    seen = []

    def remember(prompter, model, requests, history):
        seen.append(prompter)
        return [prompter.ids(request.text) for request in requests]

    monkeypatch.setattr(asa.engine.calling, "fitting_prompts", remember)
    writer.write([writer.opening], REQUESTS[:1], [("look",)])
    text = seen[0].text("2+3?")
    assert "look(q)" in text and "add(" not in text
    writer.own_prompt = False
    writer.write([writer.opening], REQUESTS[1:2], [("look",)])
    assert seen[1] is writer.prompter


def test_examples_of_calls_take_the_place_of_the_others():
    call, words, more = Example("a", {"a": 1}), Example("b", answer="b"), Example("c", {"a": 2})
    tool = replace(TOOLS["add"], examples=(call, words))
    assert as_called({"add": tool})["add"].examples == (call,)
    assert as_called({"add": replace(tool, call_examples=(more,))})["add"].examples == (more,)


def test_other_schemas_of_the_same_tools(writer):
    """A writer may hold calls to more than the prompt's own tools say."""
    one = {"type": "object", "properties": {"a": {"type": "integer", "enum": [7]}}, "required": ["a"]}
    tools = TOOLS | {"add": replace(TOOLS["add"], parameters=one)}
    strict = CallWriter(writer.model, writer.prompter, writer.rules, tools)
    (written,) = strict.write([strict.opening], REQUESTS[:1], [("add",)])
    assert parse_tool_calls(writer.rules.text(written), markers=writer.rules.markers)[0] == ToolCall("add", {"a": 7})


def test_a_token_that_goes_on_behind_the_trigger_is_cut_there(writer):
    """As Gemma draws `>[` into one token; the words in front of it stay."""
    said = {(1,): "So ", (1, 2): "So <|tool_call_st", (1, 2, 3): "So <|tool_call_start|>["}
    trigger = writer.rules.markers[0]
    writer.rules.text = lambda ids: said[tuple(ids)] if tuple(ids) in said else ""
    writer.rules.calls = lambda ids: trigger in writer.rules.text(ids)
    assert writer._up_to_call([1, 2, 3]) == [1, *writer.opening]
