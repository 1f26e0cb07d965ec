"""Targets: TEST counted at the thresholds that come with an adapter."""

import numpy as np
import pytest
from steered import changed, simple

from asa.adapter.decision import Decision
from asa.evaluation.targets import TARGETS, reliability, target_rates, targets_in_words, targets_section

QUANTILES = np.linspace(0, 1, 101).tolist()


@pytest.fixture
def rows() -> list[dict]:
    """Of an adapter whose unneeded requests are spread evenly: its threshold is 1 less the wanted share."""
    adapter = changed(simple([0.5]), calibration={"unneeded": QUANTILES, "needed": QUANTILES})
    p_tool = [0.99, 0.97, 0.93, 0.5, 0.96, 0.91, 0.2, 0.1]
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0])
    return target_rates(adapter, [Decision("math", p, 1, 1, 0.5, 0.9) for p in p_tool], labels)


def test_each_share_has_its_threshold_and_is_counted(rows):
    assert [row["wanted"] for row in rows] == list(TARGETS)
    assert [row["threshold"] for row in rows] == pytest.approx([0.98, 0.95, 0.9])
    assert [row["fpr"]["hits"] for row in rows] == [0, 1, 2]
    assert [row["recall"]["hits"] for row in rows] == [1, 2, 3]
    assert {row[name]["total"] for row in rows for name in ("fpr", "recall")} == {4}


def test_in_words_and_as_a_table(rows):
    assert "For 5% false calls the gate opens from p(tool) 0.950 on: on TEST 25.0% false calls, 50.0%" in (
        targets_in_words(rows)
    )
    assert "| 0.050 | 0.950 | 0.250 (0.046-0.699) | 0.500" in targets_section(rows)[-1]
    assert targets_section([]) == []


def test_reliability_sorts_every_request_into_its_bin():
    bins = reliability(np.array([0.0, 0.05, 0.55, 1.0]), np.array([0, 1, 1, 1]))
    assert [row["count"] for row in bins] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert bins[0] == {"count": 2, "mean_p": 0.025, "needs_tool": 0.5}
    assert bins[1] == {"count": 0, "mean_p": None, "needs_tool": None}
