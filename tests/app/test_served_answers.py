"""Served answers: what a client gets of an answer, whole or while it goes on."""

import itertools

import pytest

from asa.app.served_answers import Served, served
from asa.tools.calls import ToolCall

MARKERS = ("<tool_call>", "</tool_call>")
CALL = '<tool_call>[find(query="a < b")]</tool_call>'
FOUND = ToolCall("find", {"query": "a < b"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Four.", Served("Four.")),
        ("a < b", Served("a < b")),
        (CALL, Served("", (FOUND,))),
        (f"Let me see. {CALL}", Served("Let me see. ", (FOUND,))),
        (CALL + CALL, Served("", (FOUND, FOUND))),
        ('<tool_call>[find(query="a < b"), now()]</tool_call>', Served("", (FOUND, ToolCall("now", {})))),
        ('So <tool_call>[find(query="a', Served("So ")),  # cut by the limit
        ("<tool_call>[nobody()]</tool_call>", Served("<tool_call>[nobody()]</tool_call>")),
    ],
)  # fmt: skip
def test_whole_answers(text, expected):
    assert served(text, MARKERS, ["find", "now"]) == expected


def test_names_are_the_clients():
    """One that no call can write comes back as the client knows it."""
    assert served("<tool_call>[get_it()]</tool_call>", MARKERS, ["get it"]).calls == (ToolCall("get it", {}),)


@pytest.mark.parametrize("text", ["Four.", f"Let me see: {CALL}", "1 < 2 <b>", CALL + CALL])
def test_an_answer_that_goes_on_shows_ever_more_of_the_same(text):
    """Nothing that was shown is taken back, and nothing of a call is shown as words."""
    whole = served(text, MARKERS, ["find"])
    shown = [served(text[:end], MARKERS, ["find"], going_on=True) for end in range(len(text) + 1)]
    assert all(whole.words.startswith(one.words) and whole.calls[: len(one.calls)] == one.calls for one in shown)
    assert all(after.words.startswith(before.words) for before, after in itertools.pairwise(shown))
    assert shown[-1] == whole
