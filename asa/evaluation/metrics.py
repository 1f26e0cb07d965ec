"""Metrics: intervals, paired tests, and what is derived from rates.

Every rate has a 95 % interval (Wilson), F1 a bootstrap over requests, and two runs on the same requests are compared by
an exact McNemar test. What has no denominator is no number: it is None, and so is its interval; `why_missing` says why.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binomtest

from asa.data.scores import confusion, ratio

BOOTSTRAP_ROUNDS = 2000
NO_DENOMINATOR = {  # a rate -> why it can be missing; without requests all are, for one reason
    "accuracy": "no request, so there are no rates",
    "recall": "no request with need of a tool, so there is no recall",
    "fpr": "no request without need of a tool, so there is no FPR",
    "precision": "no call, so there is no precision",
    "f1": "no call and no request with need of a tool, so there is no F1",
}


def why_missing(runs: dict[str, dict]) -> list[str]:
    """A sentence for every kind of rate that is None in the `confusion` of several runs; it names those it is about.

    >>> why_missing({"baseline": confusion([True, False], [1, 1])})
    ['No request without need of a tool, so there is no FPR.']
    >>> why_missing({"baseline": confusion([False, False], [1, 0]), "ASA": confusion([True, True], [1, 0])})
    ['baseline: no call, so there is no precision.']
    """
    found: dict[str, list[str]] = {}
    for run, scores in runs.items():
        missing = [name for name in NO_DENOMINATOR if scores.get(name, 0.0) is None]
        for name in missing[:1] if missing[:1] == ["accuracy"] else missing:
            found.setdefault(NO_DENOMINATOR[name], []).append(run)
    return [
        f"{reason[0].upper()}{reason[1:]}." if len(named) == len(runs) else f"{', '.join(named)}: {reason}."
        for reason, named in found.items()
    ]


def wilson(hits: int, total: int) -> list[float] | None:
    """Wilson 95 % interval of a rate, `[low, high]`; None where nothing was counted."""
    if total == 0:
        return None
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def rate_of(hits: int, total: int) -> dict:
    """A rate with its interval: `rate`, `interval` (both None where nothing was counted), `hits`, `total`."""
    return {"rate": ratio(hits, total), "interval": wilson(hits, total), "hits": hits, "total": total}


def f1_interval(called: ArrayLike, labels: ArrayLike, seed: int) -> list[float] | None:
    """95 % bootstrap interval of F1 over requests; None where F1 is 0 or 1: requests drawn again say the same."""
    called, needed = np.asarray(called, bool), np.asarray(labels) == 1
    if not (called & needed).any() or (called == needed).all():
        return None
    picks = np.random.default_rng(seed).integers(0, len(called), (BOOTSTRAP_ROUNDS, len(called)))
    tp = (called & needed)[picks].sum(axis=1)
    twice = called[picks].sum(axis=1) + needed[picks].sum(axis=1)
    return [float(bound) for bound in np.percentile(2 * tp / np.maximum(twice, 1), [2.5, 97.5])]


def trigger_metrics(called: ArrayLike, labels: ArrayLike, seed: int) -> dict:
    """`confusion` plus `intervals`: 95 % `[low, high]` for every rate; None without one, and for an F1 of 0 or 1."""
    scores = confusion(called, labels)
    tp, fp, fn, tn = (scores[name] for name in ("tp", "fp", "fn", "tn"))
    scores["intervals"] = {
        "precision": wilson(tp, tp + fp), "recall": wilson(tp, tp + fn), "f1": f1_interval(called, labels, seed),
        "fpr": wilson(fp, fp + tn), "accuracy": wilson(tp + tn, tp + fp + fn + tn),
    }  # fmt: skip
    return scores


def mcnemar(called_a: ArrayLike, called_b: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """Exact McNemar test of two runs' correctness on the same requests.

    Returns:
        `only_a`, `only_b`: requests only one run got right; `p_value`, two-sided.
    """
    labels = np.asarray(labels) == 1
    right_a, right_b = np.asarray(called_a, bool) == labels, np.asarray(called_b, bool) == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p_value": p_value}


def gap_closed(f1_steered: float | None, f1_baseline: float | None, f1_probe: float | None) -> float | None:
    """Share of the way from the baseline's F1 to the probe's that steering goes; None where there is no gap.

    >>> round(gap_closed(0.6185, 0.5285, 0.8054), 2)
    0.33
    """
    if f1_steered is None or f1_baseline is None or f1_probe is None or f1_probe <= f1_baseline:
        return None
    return (f1_steered - f1_baseline) / (f1_probe - f1_baseline)


def difference(value: float | None, other: float | None) -> float | None:
    """`value - other`; None where either is missing."""
    return None if value is None or other is None else value - other


def mean_or_none(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean of `values`; None where there are none."""
    return float(np.mean(values)) if len(values) else None


def mean_and_std(values: Sequence[float | None]) -> dict[str, float | None]:
    """`mean` and sample standard deviation `std` of repeated measurements, of those that are not None.

    A mean needs one of them and a deviation two; without, it is None. Where some are missing, `counted` and `total` say
    how many are there and how many were made.

    >>> mean_and_std([0.25, None, 0.75])["mean"], mean_and_std([0.25, None, 0.75])["counted"]
    (0.5, 2)
    """
    there = [value for value in values if value is not None]
    of = {"mean": mean_or_none(there), "std": float(np.std(there, ddof=1)) if len(there) > 1 else None}
    return of if len(there) == len(values) else of | {"counted": len(there), "total": len(values)}
