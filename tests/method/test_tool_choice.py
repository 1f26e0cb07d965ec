"""Which tools a call may name, and how sure the router must be."""

from types import SimpleNamespace

import numpy as np
import pytest

from asa.adapter import Decision
from asa.data.requests import Request
from asa.method.tool_choice import ToolChoiceError, choose_sureness, held_tools, surest
from asa.tools.definitions import Tool

TOOLS = {
    name: Tool(name, "", {"type": "object"}, domain)
    for name, domain in (("add", "math"), ("sum", "math"), ("find", "search"))
}


def decision(domain: str, p_domain: float) -> Decision:
    return Decision(domain, 0.9, 1, 5, 0.5, p_domain)


@pytest.mark.parametrize(
    ("choice", "p_domain", "held"),
    [
        ("routed", 0.8, ("add", "sum")), ("routed", 0.7, ("add", "sum")), ("routed", 0.69, ("add", "sum", "find")),
        ("required", 0.8, ("add", "sum")), ("free", 1.0, ("add", "sum", "find")), ("none", 1.0, ()),
        ("find", 1.0, ("find",)),
    ],
)  # fmt: skip
def test_what_a_call_may_name(choice, p_domain, held):
    """All tools of the router's domain where it is sure enough; whatever it says where a tool is named."""
    assert held_tools(choice, TOOLS, decision("math", p_domain), 0.7) == held


def test_a_domain_without_a_tool_leaves_all_of_them():
    assert held_tools("routed", TOOLS, decision("weather", 1.0)) == tuple(TOOLS)


def test_what_is_no_choice_is_refused():
    with pytest.raises(ToolChoiceError, match="'always': use free, routed, required, none, or one of add, sum, find"):
        held_tools("always", TOOLS, decision("math", 1.0))


def test_the_router_is_asked_to_be_as_sure_as_helps():
    """0 where the router is never worse than a free call, or nothing is known; the highest where it always is."""
    p, yes, no = np.array([0.4, 0.85]), np.array([True, True]), np.array([False, False])
    assert (
        surest(p, yes, yes) == surest(p, yes, no) == surest(np.array([]), np.array([], bool), np.array([], bool)) == 0.0
    )
    assert surest(p, no, yes) == 0.9
    assert surest(p, np.array([False, True]), np.array([True, False])) == 0.5


def test_only_unsure_requests_that_need_a_tool_are_asked(monkeypatch):
    """The model names a tool freely there, and the better of the two says how sure the router must be."""
    asked = []

    def write(answers, requests, held):
        asked.extend(request.text for request in requests)
        assert set(held) <= {tuple(TOOLS)}
        return [["<[sum()]>"] for _ in answers]

    writer = SimpleNamespace(
        write=write, tools=TOOLS, opening=[1], rules=SimpleNamespace(text=lambda ids: ids[0], markers=("<", ">"))
    )
    requests = [
        Request("unsure", 1, "math", ""), Request("words", 0, "math", ""), Request("sure", 1, "math", ""),
        Request("found", 1, "search", ""),
    ]  # fmt: skip
    wrong, right = decision("search", 0.55), decision("search", 0.65)
    assert choose_sureness(requests, [wrong, wrong, decision("search", 0.95), right], writer) == 0.6
    assert asked == ["unsure", "found"]
