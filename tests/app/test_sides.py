"""Sides: both answers are those that the assistant gives, written in turn; what fails leaves a side as it was."""

import json

import pytest
from conftest import tiny_assistant

from asa.app.assistant import Assistant
from asa.app.sides import Side, in_turn, replies, transcript
from asa.tools.definitions import load_tools

TOOLS = load_tools("data/tools.json")


@pytest.fixture(scope="module")
def assistant(tiny_model, tiny_tokenizer, prompts) -> Assistant:
    return tiny_assistant(tiny_model, tiny_tokenizer, prompts)


def test_both_sides_are_the_assistants_own_answers(assistant):
    """Turn by turn, the decision before the first piece, on one side only; the transcript holds them."""
    sides, short = (Side(), Side()), {"max_new_tokens": 8}
    for text in ("What is 12 times 7?", "And why?"):
        before = sides
        alone = replies(assistant, sides[0], text, None, {"steer": False} | short)
        steered = replies(assistant, sides[1], text, None, {"steer": True} | short)
        written = list(in_turn(alone, steered))
        assert len(written) > 4 and written[0][0].turns[-1]["content"] == "..." and written[0][1].decision is not None
        sides = written[-1]
        for side, old, steer in zip(sides, before, (False, True), strict=True):
            expected = assistant(text, steer=steer, history=old.turns, **short)
            assert side.turns == expected.messages and side.answers[-1].text == expected.text
            assert side.decision == expected.decision and side.error == ""
    whole = json.loads(transcript(assistant, sides))
    assert set(whole) == {"model", "baseline", "asa"} and len(whole["asa"]["answers"]) == 2
    assert whole["baseline"]["messages"] == list(sides[0].turns) and whole["asa"]["answers"][0]["decision"]


def test_a_request_that_fails_is_forgotten(assistant):
    """The conversation is as before, with the reason; the next request clears it."""
    options = {"max_new_tokens": 4}
    (*_, first) = replies(assistant, Side(), "Hi", None, options)
    (failed,) = replies(assistant, first, "far too long " * 60_000, None, options)
    assert failed.turns == first.turns and failed.answers == first.answers and failed.decision is None
    assert "shorten the request" in failed.error
    (*_, third) = replies(assistant, failed, "Hi", None, options)
    assert third.error == "" and len(third.answers) == 2


def test_results_of_tools_are_answered(assistant):
    """Where there are functions, what a call gave stands between two answers, and the call's decision stays."""
    functions = {name: lambda **arguments: "84" for name in TOOLS}
    options = {"tool_choice": "calculator", "max_new_tokens": 8}
    (*_, side) = replies(assistant, Side(), "What is 12 times 7?", functions, options)
    assert [turn["role"] for turn in side.turns][:3] == ["user", "assistant", "tool"] and len(side.answers) == 2
    assert side.decision == side.answers[0].decision is not None and side.answers[1].decision is None
