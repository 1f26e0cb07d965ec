"""Folding: a layer's scaler, router and probes as one matrix, so that a decision is one product.

What scikit-learn fitted goes in; nothing is fitted here, and scikit-learn is not imported.
"""

import math
from typing import Any, Protocol

import numpy as np

from asa.adapter.decision import sigmoid


class FittedReaders(Protocol):
    """What an adapter that no file holds yet is folded from: what it needs of `method.probes.Readers`.

    Attributes:
        domains: Names, in order.
        scaler: Of scikit-learn, as are router and probes.
        router: Scaled state -> domain index.
        probes: Domain -> probe of the scaled state.
    """

    domains: list[str]
    scaler: Any
    router: Any
    probes: dict[str, Any]


def folded(readers: FittedReaders) -> tuple[np.ndarray, np.ndarray]:
    """Router rows, then probe rows, of hidden states that are not scaled.

    Returns:
        Weight `[2D, H]` and bias `[2D]`.
    """
    router = readers.router
    router_weight, router_bias = router.coef_, router.intercept_
    if len(readers.domains) <= 2:  # scikit-learn keeps one row for two classes: class 1 against class 0
        router_weight = np.vstack([0 * router_weight[0], router_weight[0]])[: len(readers.domains)]
        router_bias = np.array([0.0, router_bias[0]])[: len(readers.domains)]
    probes = [readers.probes[domain] for domain in readers.domains]
    weight = np.vstack([router_weight, *[probe.coef_ for probe in probes]]) / readers.scaler.scale_
    bias = np.concatenate([router_bias, *[probe.intercept_ for probe in probes]]) - weight @ readers.scaler.mean_
    return weight, bias


def read_scores(row: list[float], weighs_probes: bool) -> tuple[int, float, float]:
    """What a request's scores `[2D]` say; plain numbers, since tensors of so few would cost more time.

    Args:
        row: Router scores, then probe scores.
        weighs_probes: Whether every probe has a say, as in `method.probes.Readers.p_tool`, or the likeliest domain's
            alone, as in adapters fitted before.

    Returns:
        (domain index, probability that a tool is needed, the router's probability of the domain).

    >>> read_scores([0.0, 0.0, 99.0, 0.0], True)[:2], read_scores([0.0, 2.0, -1.0, 0.0], False)[:2]
    ((0, 0.75), (1, 0.5))
    """
    router, probes = row[: len(row) // 2], row[len(row) // 2 :]
    highest = max(router)
    domain, odds = router.index(highest), [math.exp(score - highest) for score in router]
    together = sum(odds)
    if not weighs_probes:
        return domain, sigmoid(probes[domain]), 1 / together
    weighed = sum(share * sigmoid(score) for share, score in zip(odds, probes, strict=True))
    return domain, weighed / together, 1 / together
