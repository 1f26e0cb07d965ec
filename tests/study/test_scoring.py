"""Scoring: a rung is judged by the evaluation's rules, against the baseline and its own whole method."""

from types import SimpleNamespace

import numpy as np

from asa.evaluation.metrics import mcnemar, trigger_metrics
from asa.evaluation.validity import call_validity
from asa.study.scoring import PROBE, ladder_row, score_ladder
from asa.tools.definitions import Tool


def test_a_rung_s_scores_are_those_of_the_evaluation():
    texts = ["<c>[f()]</c>", "<c>[f(]</c>", "words", "<c>[f()]</c>"]
    called, baseline, labels = [True, True, False, True], [True, False, True, False], [1, 0, 0, 1]
    tools, damage = {"f": Tool("f", "", {"type": "object", "properties": {}}, "math")}, {"unchanged": 0.5}
    full = [True, False, False, True]
    row = ladder_row(texts, *map(np.array, (called, baseline, full)), labels, tools, ("<c>", "</c>"), damage, 7)
    assert row == {
        "scores": trigger_metrics(called, labels, 7),
        "mcnemar": mcnemar(baseline, called, labels),
        "against_full": mcnemar(full, called, labels),
        "validity": call_validity(texts, tools, ("<c>", "</c>")),
        "damage": damage,
    }
    assert (row["mcnemar"]["only_a"], row["mcnemar"]["only_b"]) == (1, 2)  # the rung is run b
    assert (row["against_full"]["only_a"], row["against_full"]["only_b"]) == (1, 0)
    assert row["validity"]["format"]["hits"] == 2 and row["validity"]["format"]["total"] == 3


def test_a_rung_is_compared_with_the_whole_method_of_its_own_direction():
    """A rung without one with the chosen direction's; the probe stands last."""
    called = {
        "baseline": [1, 1, 0, 0], "action: full": [1, 0, 1, 0], "necessity: full": [0, 0, 1, 1],
        "necessity: cascade": [0, 0, 1, 0], "forced": [1, 0, 1, 1],
    }  # fmt: skip
    rules = SimpleNamespace(
        called=lambda rung: np.array([said == [1] for said in rung]), text=str, markers=("<c>", "</c>")
    )
    rungs = {name: [[said] for said in row] for name, row in called.items()}
    labels, probe = np.array([1, 0, 1, 0]), np.array([True, False, True, True])
    damage = dict.fromkeys(rungs)
    ladder = score_ladder(rungs, probe, labels, damage, "action", rules, {}, 0)
    assert list(ladder) == [*rungs, PROBE]
    full = {name: np.array(row, bool) for name, row in called.items()}
    for name, other in {"forced": "action: full", "necessity: cascade": "necessity: full"}.items():
        assert ladder[name]["against_full"] == mcnemar(full[other], full[name], labels)
    assert ladder[PROBE]["scores"] == trigger_metrics(probe, labels, 0)
