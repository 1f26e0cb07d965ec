"""Pages: what is said is shown, never obeyed."""

import re
from pathlib import Path

import pytest

from asa.adapter.decision import Decision
from asa.app.pages import conversation, strip, title
from asa.tools.definitions import load_tools

TOOLS = load_tools(Path(__file__).parents[2] / "data" / "tools.json")
MARKERS = ("<t>", "</t>")
HOSTILE = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"


def said(role: str, text: str) -> str:
    return conversation([{"role": role, "content": text}], TOOLS, MARKERS)


@pytest.mark.parametrize(
    "page",
    [
        *(said(role, HOSTILE) for role in ("user", "assistant", "tool")),
        said("assistant", f"<t>[calculator(expression={HOSTILE!r})]</t>"),
        said("assistant", f"<t>[{HOSTILE}]</t>"),
        strip(Decision(HOSTILE, 0.5, 0, 1, 0.0, 1.0), {0.5, 1 - 0.5}),
        strip(None, {0.5, 1 - 0.5}, HOSTILE),
        title(HOSTILE, 3),
    ],
)
def test_nothing_that_is_said_becomes_a_tag(page):
    """A user's, a model's, a tool's or an adapter's text, in words, arguments, faults or names."""
    tags = set(re.findall(r"<(\w+)", page))
    assert tags <= {"div", "b", "span", "i", "s", "code", "details", "summary", "h2"} and "&lt;img src=x" in page


def test_a_call_is_a_card():
    """With its arguments, whether it fits its schema, what is wrong, and how it was written; words stand before it."""
    page = said("assistant", 'Let me see. <t>[calculator(expression="17*23")]</t>')
    assert "Let me see.<" in page and "<b>calculator</b>" in page and "17*23" in page
    assert ">fits the schema<" in page and ">fault<" not in page and "&lt;t&gt;[calculator(" in page
    wrong = said("assistant", '<t>[calculator(expr="17*23"), add(a=1)]</t>')
    assert wrong.count(">fault<") == 2 and wrong.count("as written") == 1 and ">fits the schema<" not in wrong
    assert "the arguments of calculator do not fit its schema" in wrong and "there is no tool add" in wrong
    unread = said("assistant", "<t>[calculator(")
    assert "a call that cannot be read" in unread and ">fault<" in unread
    assert "(nothing)" in said("assistant", "") and "= 391" in said("tool", "391")


@pytest.mark.parametrize(("gate", "words"), [(1, "toward a call"), (0, "not pushed"), (-1, "away from a call")])
def test_a_decision_is_a_strip(gate, words):
    """Domain, probability on a bar that is marked where the gate opens, gate, dose and layer."""
    line = strip(Decision("math", 0.9375, gate, 22, 0.35, 1.0), {0.75, 1 - 0.75})
    assert "<b>math</b>" in line and "p(tool) 0.938" in line and "width: 93.8%" in line and words in line
    assert "left: 75.0%" in line and "left: 25.0%" in line and "dose 0.35, layer 22" in line
    assert strip(Decision("math", 0.9, gate, 2, 0.1, 1.0), {0.5, 1 - 0.5}).count("<s ") == 1
    assert "decides about a request" in strip(None, {0.5, 1 - 0.5})
