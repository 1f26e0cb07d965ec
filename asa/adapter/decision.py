"""Decisions: what an adapter decides for a request and by which gate, and the record of a `steer` block."""

import math
from dataclasses import dataclass, field
from numbers import Real

import numpy as np

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


def does_anyway(gate: int, opens: bool | None) -> bool:
    """Whether the unsteered model, which `opens` a call or does not, does what the gate wants; None: it is not known.

    >>> does_anyway(1, True), does_anyway(-1, True), does_anyway(-1, None)
    (True, False, False)
    """
    return opens is not None and gate == (1 if opens else -1)


def threshold_of_share(config: dict, share: float) -> float:
    """The p_tool that a share of the requests without need reaches, by the quantiles that an adapter's config keeps.

    Raises:
        AdapterError: The share is not between 0 and 1, or there are no such quantiles.
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 < share < 1:
        raise AdapterError(f"the share of false calls is {share!r}: give a number between 0 and 1.")
    quantiles = _quantiles(config, "unneeded")
    return float(np.interp(1 - float(share), np.linspace(0, 1, len(quantiles)), quantiles))


def recall_of_threshold(config: dict, threshold: float) -> float:
    """The share of the requests that need a tool whose p_tool reaches `threshold`, by the quantiles in the config.

    Raises:
        AdapterError: There are no such quantiles.
    """
    quantiles = _quantiles(config, "needed")
    steps, first = np.unique(quantiles, return_index=True)  # of equal ones, the first: all of them reach it
    return 1 - float(np.interp(threshold, steps, np.linspace(0, 1, len(quantiles))[first]))


def _quantiles(config: dict, name: str) -> np.ndarray:
    if "calibration" not in config:
        raise AdapterError("the adapter was fitted without what a wanted share of false calls needs: fit again.")
    try:
        quantiles = np.array(config["calibration"][name], float)
        orderly = quantiles.ndim == 1 and quantiles.size > 1 and 0 <= quantiles[0] and quantiles[-1] <= 1
    except (KeyError, TypeError, ValueError):
        orderly = False
    if not orderly or not (np.diff(quantiles) >= 0).all():
        raise AdapterError("the adapter's calibration is no ascending list of probabilities: fit again.")
    return quantiles


def sigmoid(score: float) -> float:
    """Of one number, without overflow; a library's would cost a second of every import."""
    away = math.exp(-abs(score))
    return (1.0 if score >= 0 else away) / (1.0 + away)
