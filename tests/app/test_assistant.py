"""The assistant: answers in three lines, as the evaluation and `generate` give them; what it cannot do is refused."""

import itertools
import json
import threading
from pathlib import Path

import pytest
import torch
from conftest import HIDDEN, hooks_of, tiny_assistant

from asa.adapter import ASAAdapter
from asa.adapter.decision import AdapterError
from asa.app.answers import Stream
from asa.app.asking import AssistantError
from asa.app.assistant import Assistant
from asa.method.tool_choice import ToolChoiceError
from asa.models.answers import AnswerRules
from asa.models.profiles import EMBEDDED
from asa.support.files import UserError
from asa.tools.definitions import load_tools, tools_from_json, tools_to_json

ROOT = Path(__file__).parents[2]
TOOLS = load_tools(ROOT / "data" / "tools.json")
REQUESTS = ["What is 12 times 7?", "Why is the sky blue?", "Translate the word cat into German, please.", "Hi"]
OPENING, CLOSING = EMBEDDED.markers


@pytest.fixture(scope="module")
def assistant(tiny_model, tiny_tokenizer, prompts) -> Assistant:
    assistant = tiny_assistant(tiny_model, tiny_tokenizer, prompts)
    assistant.adapter.config["tool_choice"] = {"choice": "routed", "sure": 0.0}
    return assistant


def generated(assistant: Assistant, text: str, steer: bool, limit: int) -> tuple[str, list]:
    """The answer of transformers' own `generate`, and the decisions behind it."""
    ids = torch.tensor([assistant.prompter.ids(text)])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": limit, "do_sample": False}
    if not steer:
        return assistant.prompter.answer(assistant.model.generate(ids, **options)[0, ids.shape[1] :].tolist()), []
    with assistant.adapter.steer(assistant.model) as trace:
        new = assistant.model.generate(ids, **options)[0, ids.shape[1] :].tolist()
    return assistant.prompter.answer(new), trace.decisions


@pytest.mark.parametrize(("steer", "look_ahead"), [(False, False), (True, False), (True, True)])
def test_answers_are_those_of_generate(assistant, steer, look_ahead):
    """Greedy, one decision each, alone and side by side, and no hook stays."""
    before, facts = hooks_of(assistant.model), {"look_ahead": look_ahead, "trigger_id": assistant.prompter.trigger_id}
    adapter = ASAAdapter(assistant.adapter.config | facts, assistant.adapter.arrays)
    assistant = Assistant(adapter, assistant.model, assistant.prompter)
    together = assistant(REQUESTS, steer=steer, grammar=False, max_new_tokens=12)
    for text, answer in zip(REQUESTS, together, strict=True):
        alone = assistant(text, steer=steer, grammar=False, max_new_tokens=12)
        said, decisions = generated(assistant, text, steer, 12)
        assert alone.text == answer.text == said.split("<|im_end|>")[0].strip()
        if steer:
            known = ("domain", "gate", "dose", "opens")
            assert [getattr(alone.decision, name) for name in known] == [getattr(decisions[0], name) for name in known]
            assert not (look_ahead and alone.decision.gate == -1 and alone.decision.dose)  # none calls by itself
            assert alone.decision.p_tool == pytest.approx(decisions[0].p_tool, abs=1e-3)
        else:
            assert alone.decision is None
    assert hooks_of(assistant.model) == before


@pytest.mark.parametrize("choice", ["required", *TOOLS])
def test_a_call_that_is_asked_for_is_written_and_fits(assistant, choice):
    """By the router's tool or the named one; nothing is pushed."""
    for answer in assistant(REQUESTS, tool_choice=choice):
        assert answer.faults == () and answer.text.startswith(OPENING) and answer.text.endswith(CLOSING)
        (name,) = {call.name for call in answer.calls}  # a random model may say several at once
        assert name == choice if choice in TOOLS else TOOLS[name].domain == answer.decision.domain
        assert (answer.decision.gate, answer.decision.dose) == (0, 0.0)


def test_a_call_that_is_not_wanted_is_not_made(assistant, monkeypatch):
    """Neither as the first token nor later."""
    for answer in assistant(REQUESTS, tool_choice="none", max_new_tokens=24):
        assert answer.calls == answer.faults == () and OPENING not in answer.text and answer.decision.gate == 0
    plain = assistant("Hi", tool_choice="none", max_new_tokens=24).text
    assert len(plain) > 4
    monkeypatch.setattr("asa.app.asking.AnswerRules.said", lambda rules, ids: f"{plain[:4]}{OPENING}[add(a=1)]")
    assert assistant("Hi", tool_choice="none").text == plain[:4].rstrip()


def test_pieces_make_the_answer(assistant):
    """Whatever ends it; a call comes as one piece."""
    count = []
    for text in REQUESTS:
        stream = assistant(text, stream=True, grammar=False, max_new_tokens=16)
        assert isinstance(stream, Stream) and stream.answer is None
        pieces = list(stream)
        assert "".join(pieces) == stream.answer.text == assistant(text, grammar=False, max_new_tokens=16).text
        count.append(sum(map(bool, pieces)))
    assert max(count) > 4
    stream = assistant("Hi", stream=True, tool_choice="calculator")
    assert [piece for piece in stream if piece] == [stream.answer.text]


def test_a_stream_can_be_left_and_finished(assistant):
    """What is left of it follows; once it is whole it stays so."""
    alone = assistant("Why is the sky blue?", grammar=False, max_new_tokens=12)
    stream = assistant("Why is the sky blue?", grammar=False, max_new_tokens=12, stream=True)
    for _ in stream:
        break
    assert stream.finish().text == alone.text
    assert list(stream) == [] and stream.finish().text == stream.answer.text == alone.text


def test_a_stream_that_a_fault_broke_off_is_not_finished():
    def pieces():
        yield "a"
        raise ZeroDivisionError

    stream = Stream(pieces(), (), None)
    with pytest.raises(ZeroDivisionError):
        list(stream)
    with pytest.raises(UserError, match="this answer was broken off: ask again"):
        stream.finish()


def test_a_stream_that_is_left_leaves_nothing_behind(assistant):
    before, kept = hooks_of(assistant.model), assistant.model.config._attn_implementation
    stream = iter(assistant("Why is the sky blue?", stream=True))
    next(stream)
    assert (hooks_of(assistant.model), assistant.model.config._attn_implementation) == (before, kept)


def test_a_conversation_goes_on_as_if_asked_at_once(assistant, monkeypatch):
    """What was said before is part of the prompt; its beginning is computed once, and unsteered."""
    first = assistant(REQUESTS[1], max_new_tokens=8, grammar=False)
    assert [turn["role"] for turn in first.messages] == ["user", "assistant"]
    read = []
    prefill = assistant._asker.prefixes.model.get_decoder().forward
    monkeypatch.setattr(
        assistant.model.get_decoder(), "forward",
        lambda *args, **given: read.append(given["input_ids"].shape[1]) or prefill(*args, **given),
    )  # fmt: skip
    second = assistant("And why?", history=first.messages, max_new_tokens=8, grammar=False)
    fresh = Assistant(assistant.adapter, assistant.model, assistant.prompter)
    assert max(read) < len(assistant.prompter.prefix()) < len(assistant.prompter.ids("And why?", first.messages))
    again = fresh("And why?", history=list(first.messages), max_new_tokens=8, grammar=False)
    assert (second.text, second.messages) == (again.text, again.messages)
    ids = assistant.prompter.ids("And why?", first.messages)
    assert assistant.prompter.tokenizer.decode(ids).count("<|im_start|>user\n") == 2 + 2 * len(TOOLS)


def test_calls_are_run_and_their_results_answered(assistant, monkeypatch):
    """With the arguments by name; what follows the last results is in words, in a prompt without tools."""
    given = []
    functions = {name: lambda **arguments: given.append(arguments) or {"value": 84} for name in TOOLS}
    answer = assistant.run("What is 12 times 7?", functions, tool_choice="calculator", max_new_tokens=8)
    asked, called, *results, said = answer.messages
    assert asked == {"role": "user", "content": "What is 12 times 7?"} and called["content"].startswith(OPENING)
    assert results == [{"role": "tool", "content": json.dumps({"value": 84})}] * len(given) and given
    assert all(set(arguments) == {"expression"} for arguments in given)
    assert said == {"role": "assistant", "content": answer.text} and not answer.calls and answer.decision is None
    with pytest.raises(AssistantError, match="the model calls calculator, which has no function"):
        assistant.run("What is 12 times 7?", {}, tool_choice="calculator")

    def fails(expression):
        raise ZeroDivisionError("by zero")

    with pytest.raises(AssistantError, match=r"calculator\(expression=.*\) failed \(ZeroDivisionError: by zero\): c"):
        assistant.run("What is 12 times 7?", {"calculator": fails}, tool_choice="calculator")
    words = assistant.run("Hi", functions, tool_choice="none", max_new_tokens=8)
    assert len(words.messages) == 2 and len(given) == len(results)


@pytest.mark.parametrize("texts", ["", " \n", ["Hi", ""]])
def test_an_empty_request_is_refused(assistant, texts):
    """But for what follows a tool's result."""
    with pytest.raises(AssistantError, match=r"^a request is empty: write one\.$"):
        assistant(texts)


def test_a_result_that_json_cannot_hold_is_a_fault_of_the_function(assistant):
    with pytest.raises(AssistantError, match=r"failed \(TypeError: keys must be .*correct the function"):
        assistant.run("Hi", {"calculator": lambda **_: {(1, 2): "sunny"}}, tool_choice="calculator")


def test_an_answer_that_is_cut_says_so(assistant):
    """At the maximum of new tokens; one that ends its turn, or a whole call, is not."""
    short, longer = (assistant(REQUESTS, grammar=False, max_new_tokens=limit) for limit in (4, 12))
    assert any(answer.cut for answer in short)
    for answer, more in zip(short, longer, strict=True):
        assert answer.cut == answer.to_json()["cut"] == (more.text != answer.text)
    assert not assistant("What is 12 times 7?", tool_choice="calculator").cut
    rules = AnswerRules(assistant.prompter, assistant.model)
    end = assistant.prompter.tokenizer.eos_token_id
    assert rules.whole([5, end]) and not rules.whole([5, 6])


def test_another_gate_and_dose(assistant):
    """What is asked for is what decides and pushes; the adapter itself stays, and impossible settings are refused."""
    adapter = assistant.adapter
    for tau, gate in ((0.5, {1, -1}), (0.999999, {0})):
        decision = assistant.tuned(tau, 0.75).adapter.push(torch.zeros(1, HIDDEN))[1][0]
        assert decision.gate in gate and decision.dose == 0.75 * abs(decision.gate)
    other = assistant.tuned(dose=2 * adapter.dose)
    assert other.adapter.alpha == pytest.approx(2 * adapter.alpha) and other.adapter.tau == adapter.tau
    assert other.prompter is assistant.prompter and assistant.adapter is adapter
    careful = ASAAdapter(adapter.config | {"calibration": {"unneeded": [0.0, 1.0]}}, adapter.arrays)
    careful = Assistant(careful, assistant.model, assistant.prompter).with_target_fpr(0.1)
    assert careful.adapter.threshold == pytest.approx(0.9) and careful("Hi", max_new_tokens=1).decision.gate in (-1, 1)
    assert assistant.tuned().adapter.config == adapter.config
    for tau, dose in ((0.4, 1.0), (0.5, -1.0)):
        with pytest.raises(AdapterError, match=r"(tau|dose|alpha)\b"):
            assistant.tuned(tau, dose)
    with pytest.raises(AdapterError, match="dose 0, which no other dose can be derived from"):
        adapter.tuned(dose=0.0).tuned(dose=0.5)


def test_two_answers_may_be_streamed_in_turn(assistant):
    """Piece by piece of each they are what they are alone, and the decision is there first."""
    options = {"grammar": False, "max_new_tokens": 12}
    alone = [assistant(text, **options).text for text in REQUESTS[:2]]
    both = [assistant(text, stream=True, **options) for text in REQUESTS[:2]]
    assert all(stream.decision is not None and stream.turns[0]["content"] in REQUESTS for stream in both)
    told = ["", ""]
    for pieces in itertools.zip_longest(*both, fillvalue=""):
        told = [so_far + piece for so_far, piece in zip(told, pieces, strict=True)]
    assert told == alone == [stream.finish().text for stream in both]
    assert assistant(REQUESTS[0], stream=True, **options).finish().text == alone[0]


def test_both_ways_at_once(assistant):
    compared = assistant.compare("Why is the sky blue?", max_new_tokens=8)
    assert compared.asa.decision is not None and compared.baseline.decision is None
    row = compared.row()
    assert (row.request, row.label, row.decision) == ("Why is the sky blue?", None, compared.asa.decision)
    assert str(compared).splitlines()[0] == f"baseline  {compared.baseline}".splitlines()[0]


def test_the_adapters_own_tools_may_be_named(assistant):
    """In a tools file's form; others are refused, with how to fit them, also where only a description differs."""
    own = tools_to_json(TOOLS)
    assert assistant("Hi", tools=own, max_new_tokens=2).text == assistant("Hi", max_new_tokens=2).text
    for other in (own[:2], [own[0] | {"description": "Adds."}, *own[1:]]):
        with pytest.raises(AssistantError, match=r"fit one to them, python pipeline.py --tools FILE --requests FILE"):
            assistant("Hi", tools=other)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tool_choice": "add"}, "tool choice 'add': use auto, required, none, or one of calculator, "),
        (
            {"tool_choice": {"type": "function"}},
            "tool choice {'type': 'function'}: use auto, required, none, or one of ",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens is 0: give a whole number, 1 or more."),
        ({"history": [{"role": "system", "content": "x"}]}, "turn 1 of the history is "),
        ({"history": ["Hi"]}, "turn 1 of the history is 'Hi': give role, one of user, assistant, tool, and content"),
        ({"history": [{"role": "user", "content": None}]}, "turn 1 of the history is "),
    ],
)
def test_what_is_no_option_is_refused(assistant, options, said):
    with pytest.raises((AssistantError, ToolChoiceError)) as refused:
        assistant("Hi", **options)
    assert str(refused.value).startswith(said)


def test_several_requests_are_not_streamed_and_none_gives_none(assistant):
    assert assistant([]) == []
    with pytest.raises(AssistantError, match="one at a time"):
        assistant(["Hi"], stream=True)


def test_an_answer_is_plain_json(assistant):
    answer = assistant("Hi", tool_choice="calculator")
    found = json.loads(json.dumps(answer.to_json()))
    assert found["calls"] == [{"name": "calculator", "arguments": answer.calls[0].arguments}]
    assert found["decision"]["domain"] == answer.decision.domain and found["messages"][-1]["content"] == answer.text


def test_other_threads_may_ask_in_turn(assistant):
    """One after the other."""
    found = []
    thread = threading.Thread(target=lambda: found.append(assistant("Hi", max_new_tokens=4).text))
    thread.start()
    thread.join()
    assert found == [assistant("Hi", max_new_tokens=4).text]


def test_a_tool_is_called_by_the_name_that_its_owner_knows(tiny_model, tiny_tokenizer, prompts):
    """Also where no call can write it: in the choice, in the call and among the functions."""
    own = [tool | {"name": tool["name"].replace("calculator", "my calculator")} for tool in tools_to_json(TOOLS)]
    tools = tools_from_json(own, "tools")
    assistant = tiny_assistant(tiny_model, tiny_tokenizer, prompts, tools=tools)
    answer = assistant("What is 12 times 7?", tool_choice="my calculator")
    assert "[my_calculator(" in answer.text and {call.name for call in answer.calls} == {"my calculator"}
    functions = {"my calculator": lambda expression: "84"}
    found = assistant.run("What is 12 times 7?", functions, tool_choice="my calculator", max_new_tokens=4)
    assert found.messages[2] == {"role": "tool", "content": "84"}
