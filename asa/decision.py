"""Decisions: what an adapter decided for a request, and the record of a `steer` block."""

import math
from dataclasses import dataclass, field


@dataclass
class Decision:
    """What the adapter decided for one row; not frozen, which would double the time that a decision takes.

    Attributes:
        domain: The routed domain.
        p_tool: Probability that the request needs a tool.
        gate: +1 push toward a call, -1 away, 0 leave alone.
        layer: Index of the steered block.
        dose: Length of the push over the mean length of a state, 0 where the gate is 0.
        p_domain: Probability that the router gives the domain.
    """

    domain: str
    p_tool: float
    gate: int
    layer: int
    dose: float
    p_domain: float


@dataclass
class Trace:
    """What a `steer` block did, in the order it happened."""

    decisions: list[Decision] = field(default_factory=list)


def gate_of(p_tool: float, tau: float) -> int:
    """The gate of one request; `method.steering.gates` is the same of many, also in the last bit of 1 - tau.

    >>> gate_of(0.9, 0.9), gate_of(0.1, 0.9), gate_of(0.2, 0.9)
    (1, -1, 0)
    """
    if max(p_tool, 1 - p_tool) < tau:
        return 0
    return 1 if p_tool >= 0.5 else -1


def sigmoid(score: float) -> float:
    """Of one number, without overflow; a library's would cost a second of every import."""
    away = math.exp(-abs(score))
    return (1.0 if score >= 0 else away) / (1.0 + away)
