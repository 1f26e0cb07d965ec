"""Validity: whether a call is any good: it parses, its tool is known, its arguments fit the schema.

Whether there should have been a call is not asked here.
"""

from asa.evaluation.metrics import rate_of
from asa.tools.calls import ToolCallError
from asa.tools.definitions import Tool, check_call
from asa.tools.parser import parse_tool_calls, spoken


def call_validity(answers: list[str], tools: dict[str, Tool], markers: tuple[str, str]) -> dict:
    """Rates over answers that say the trigger: `format` (parses), `tool` (known name), `arguments` (fit the schema).

    Each is a `rate_of` the triggered answers. An answer counts by its first call.
    """
    triggered = [answer for answer in answers if markers[0] in spoken(answer, markers)]
    hits = {"format": 0, "tool": 0, "arguments": 0}
    for answer in triggered:
        try:
            calls = parse_tool_calls(answer, markers=markers)
        except ToolCallError:
            continue
        if calls:
            known, fitting = check_call(calls[0], tools)
            hits["format"] += 1
            hits["tool"] += known
            hits["arguments"] += fitting
    return {name: rate_of(count, len(triggered)) for name, count in hits.items()}
