"""Decisions: what an adapter decided for a request, and the record of a `steer` block."""

import math
from dataclasses import dataclass, field

from asa.support.files import UserError


class AdapterError(UserError):
    """An adapter cannot be loaded, does not fit the model, or cannot steer a call; the message says what to do."""


@dataclass
class Decision:
    """What the adapter decided for one row; not frozen, which would double the time that a decision takes.

    Attributes:
        domain: The routed domain.
        p_tool: Probability that the request needs a tool.
        gate: +1 push toward a call, -1 away, 0 leave alone.
        layer: Index of the steered block.
        dose: Length of the push over the mean length of a state, 0 where nothing is pushed: the gate is 0, or the model
            was looked at ahead and does what the gate wants.
        p_domain: Probability that the router gives the domain.
        opens: Whether the unsteered model's next token opens a call; None where it was not looked ahead.
    """

    domain: str
    p_tool: float
    gate: int
    layer: int
    dose: float
    p_domain: float
    opens: bool | None = None


@dataclass
class Trace:
    """What a `steer` block did, in the order it happened."""

    decisions: list[Decision] = field(default_factory=list)


def gate_of(p_tool: float, tau: float, threshold: float | None = None) -> int:
    """The gate of one request; `method.steering.gates` is the same of many, also in the last bit of 1 - tau.

    A threshold takes tau's place: +1 from there on, else -1.

    >>> gate_of(0.9, 0.9), gate_of(0.1, 0.9), gate_of(0.2, 0.9), gate_of(0.2, 0.9, threshold=0.2)
    (1, -1, 0, 1)
    """
    if threshold is not None:
        return 1 if p_tool >= threshold else -1
    if max(p_tool, 1 - p_tool) < tau:
        return 0
    return 1 if p_tool >= 0.5 else -1


def sigmoid(score: float) -> float:
    """Of one number, without overflow; a library's would cost a second of every import."""
    away = math.exp(-abs(score))
    return (1.0 if score >= 0 else away) / (1.0 + away)
