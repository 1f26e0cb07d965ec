"""Targets: what the gate does to requests when it is set by a wanted share of false calls, and how far p is right.

The thresholds come with the adapter; TEST, or whatever is given, is only counted, by the gate alone. Outcome and gate
part rarely.
"""

from collections.abc import Sequence

import numpy as np

from asa.adapter import ASAAdapter
from asa.adapter.decision import Decision
from asa.evaluation.metrics import rate_of
from asa.evaluation.tables import markdown_table, rate_with_interval
from asa.method.calibration import TARGETS

BINS = 10


def target_rates(adapter: ASAAdapter, decisions: Sequence[Decision], labels: np.ndarray) -> list[dict]:
    """A row a wanted share of false calls.

    Args:
        adapter: With a calibration.
        decisions: `[N]`, of the requests.
        labels: `[N]`.

    Returns:
        `wanted`; `threshold`; and as `metrics.rate_of` `fpr` and `recall`.
    """
    p_tool, needed, rows = np.array([decision.p_tool for decision in decisions]), np.asarray(labels) == 1, []
    for wanted in TARGETS:
        threshold = adapter.with_target_fpr(wanted).threshold
        opened = p_tool >= threshold
        rates = {
            name: rate_of(int(opened[there].sum()), int(there.sum()))
            for name, there in (("fpr", ~needed), ("recall", needed))
        }
        rows.append({"wanted": wanted, "threshold": threshold} | rates)
    return rows


def reliability(p_tool: np.ndarray, labels: np.ndarray) -> list[dict]:
    """`BINS` bins of equal width: `count`, mean p and the share that needs a tool, None in an empty one."""
    place = np.minimum((p_tool * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        here = place == number
        mean_p, share = (float(p_tool[here].mean()), float(labels[here].mean())) if here.any() else (None, None)
        bins.append({"count": int(here.sum()), "mean_p": mean_p, "needs_tool": share})
    return bins


def targets_section(targets: list[dict]) -> list[str]:
    """The report's section of `target_rates`; nothing of files of earlier runs."""
    if not targets:
        return []
    rows = [
        [row["wanted"], row["threshold"], rate_with_interval(row["fpr"]), rate_with_interval(row["recall"])]
        for row in targets
    ]
    return [
        "## A wanted share of false calls",
        "`adapter.with_target_fpr(share)` sets the gate by requests that the readers did not learn from. What the gate "
        "then does to TEST:",
        markdown_table(["wanted", "threshold", "FPR", "recall"], rows),
    ]


def targets_in_words(targets: list[dict]) -> str:
    """What the gate does to TEST at each wanted share, a line each."""
    return "\n".join(
        f"For {row['wanted']:.0%} false calls the gate opens from p(tool) {row['threshold']:.3f} on: on TEST "
        f"{row['fpr']['rate']:.1%} false calls, {row['recall']['rate']:.1%} of the needed ones."
        for row in targets
    )
