"""Scores: how calls compare with labels.

Whatever chooses and whatever reports counts in the same way. A rate without a denominator is None.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import roc_auc_score


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`; None where there is nothing to divide by."""
    return part / whole if whole else None


def confusion(called: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """Counts and rates of trigger decisions `called` `[N]` (bool) against `labels` `[N]` (0 or 1).

    A rate without a denominator is None.

    >>> confusion(np.array([True, True, False, False]), np.array([1, 0, 1, 0]))["f1"]
    0.5
    """
    called, needed = np.asarray(called, bool), np.asarray(labels) == 1
    tp, fp = int((called & needed).sum()), int((called & ~needed).sum())
    fn, tn = int((~called & needed).sum()), int((~called & ~needed).sum())

    return {
        "precision": ratio(tp, tp + fp), "recall": ratio(tp, tp + fn), "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "fpr": ratio(fp, fp + tn), "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "tp": tp, "fp": fp, "fn": fn, "tn": tn,
    }  # fmt: skip


def auc_of(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the ROC curve of `scores` `[N]` against `labels` `[N]` (0 or 1); None where all labels are alike."""
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) > 1 else None


def worth(f1: float | None) -> float:
    """F1 to choose by: where it is None nothing was needed and nothing called, so nothing went wrong and it is 1."""
    return 1.0 if f1 is None else f1
