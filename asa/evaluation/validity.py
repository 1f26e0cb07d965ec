"""Validity: whether a call is any good: it parses, its tool is known, its arguments fit the schema.

Whether there should have been a call is not asked here.
"""

from dataclasses import dataclass

from asa.evaluation.metrics import rate_of
from asa.tools.calls import ToolCall, ToolCallError
from asa.tools.definitions import Tool, check_call
from asa.tools.parser import parse_tool_calls, spoken


@dataclass(frozen=True)
class FirstCall:
    """What an answer's first call is worth; each step presupposes the one before.

    Attributes:
        called: The answer says the trigger.
        parses: There is a call behind it.
        known: Its tool is known.
        fits: Its arguments fit the tool's schema.
        call: The call, where it parses.
    """

    called: bool
    parses: bool = False
    known: bool = False
    fits: bool = False
    call: ToolCall | None = None


def first_call(answer: str, tools: dict[str, Tool], markers: tuple[str, str]) -> FirstCall:
    """Read an answer's first call and judge it by its tool's schema."""
    if markers[0] not in spoken(answer, markers):
        return FirstCall(called=False)
    try:
        calls = parse_tool_calls(answer, markers=markers)
    except ToolCallError:
        calls = []
    return FirstCall(True, True, *check_call(calls[0], tools), calls[0]) if calls else FirstCall(called=True)


def call_validity(answers: list[str], tools: dict[str, Tool], markers: tuple[str, str]) -> dict:
    """Rates over answers that say the trigger: `format` (parses), `tool` (known name), `arguments` (fit the schema).

    Each is a `rate_of` the triggered answers. An answer counts by its first call.
    """
    firsts = [first for answer in answers if (first := first_call(answer, tools, markers)).called]
    steps = {"format": "parses", "tool": "known", "arguments": "fits"}
    return {name: rate_of(sum(getattr(first, step) for first in firsts), len(firsts)) for name, step in steps.items()}
