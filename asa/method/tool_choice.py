"""Tool choice: which tools a call may name.

The router knows the domain of a request better than a small model knows which tool it wants. Where the router is sure
enough, a call may name the tools of its domain only; how sure it must be is chosen on VALID. Whether to call is decided
elsewhere, but for `required`, `none` and a tool's name, which say it.
"""

from collections.abc import Mapping

import numpy as np

from asa.adapter import Decision
from asa.data.requests import Request
from asa.engine.calling import CallWriter
from asa.support.files import UserError
from asa.tools.definitions import Tool
from asa.tools.parser import parse_tool_calls

FREE, ROUTED, REQUIRED, NONE = TOOL_CHOICES = ("free", "routed", "required", "none")
SURENESS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)  # probabilities of the router's domain to ask for


class ToolChoiceError(UserError):
    """There is no such choice; the message says which there are."""


# [held_tools]
def held_tools(choice: str, tools: Mapping[str, Tool], decision: Decision | None, sure: float = 0.0) -> tuple[str, ...]:
    """Names of the tools that a call may name.

    Args:
        choice: `free`, any tool; `routed` and `required`, those of the router's domain where it is sure enough, else
            any; `none`, no tool; or a tool's name, that tool.
        tools: Tools by name.
        decision: Of the adapter; None: it was not asked, so that there is no router's domain.
        sure: Least probability of the router's domain.

    Raises:
        ToolChoiceError: There is neither such a choice nor such a tool.

    >>> tools = {name: Tool(name, "", {}, domain) for name, domain in (("add", "math"), ("find", "search"))}
    >>> held_tools("routed", tools, Decision("math", 0.9, 1, 5, 0.5, p_domain=0.8), sure=0.7)
    ('add',)
    """
    if choice not in (*TOOL_CHOICES, *tools):
        raise ToolChoiceError(f"tool choice {choice!r}: use {', '.join(TOOL_CHOICES)}, or one of {', '.join(tools)}.")
    if choice == NONE:
        return ()
    if choice not in TOOL_CHOICES:
        return (choice,)
    if choice == FREE or decision is None or decision.p_domain < sure:
        return tuple(tools)
    return tuple(name for name, tool in tools.items() if tool.domain == decision.domain) or tuple(tools)


# [/held_tools]


def choose_sureness(requests: list[Request], decisions: list[Decision], writer: CallWriter) -> float:
    """How sure the router must be that the most calls of VALID name the right tool.

    Only requests that need a tool count; and only where the router is not sure anyway are calls written that may name
    any tool.

    Args:
        requests: `[N]`.
        decisions: `[N]`, of the adapter.
        writer: Writes the calls.
    """
    rows = [row for row, request in enumerate(requests) if request.label and decisions[row].p_domain < SURENESS[-1]]
    asked = [requests[row] for row in rows]
    written = writer.write([writer.opening] * len(rows), asked, [tuple(writer.tools)] * len(rows))
    named = [parse_tool_calls(writer.rules.text(ids), markers=writer.rules.markers)[0].name for ids in written]
    return surest(
        np.array([decisions[row].p_domain for row in rows]),
        np.array([decisions[row].domain == requests[row].domain for row in rows], bool),
        np.array([writer.tools[name].domain == r.domain for name, r in zip(named, asked, strict=True)], bool),
    )


def surest(p_domain: np.ndarray, routed_right: np.ndarray, free_right: np.ndarray) -> float:
    """The probability from which on the router's tool is to be taken; ties go to the lowest.

    Args:
        p_domain: `[N]`, of the router's domain.
        routed_right: `[N]` bool, whether the router's domain is the request's.
        free_right: `[N]` bool, whether a call that may name any tool names a right one.

    >>> surest(np.array([0.55, 0.65, 0.95]), np.array([False, True, True]), np.array([True, True, False]))
    0.6
    """
    right = {sure: int(np.where(p_domain >= sure, routed_right, free_right).sum()) for sure in SURENESS}
    return max(SURENESS, key=lambda sure: right[sure])
