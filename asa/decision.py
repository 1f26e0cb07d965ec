"""Decisions: what an adapter decided for a request, and the record of a `steer` block."""

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
