"""Candidates: every gate learns what can be learned, on rows it has not seen, and ours stands first."""

import numpy as np
import pytest

from asa.study import gates
from asa.study.gates import OURS_GATE, ROUTED, ROUTED_WITH_SPARE, WITH_SPARE, candidates, compare_gates

NAMES = ["math", "code"]
ROWS, HIDDEN = 160, 24


@pytest.fixture(scope="module")
def made() -> tuple:
    """States whose second layer holds the need in one coordinate and the domain in another; the first is noise."""
    rng = np.random.default_rng(0)
    labels, domains = np.arange(ROWS) % 2, np.array(NAMES)[np.arange(ROWS) // 2 % 2]
    states = rng.standard_normal((ROWS, 2, HIDDEN)).astype(np.float32)
    states[:, 1, 0] += 6 * labels
    states[:, 1, 1] += 6 * (domains == "code")
    return states, labels, domains


@pytest.mark.parametrize("name", candidates(NAMES, 0.1, 1.0, 0))
def test_a_candidate_scores_unseen_rows_above_zero_where_a_tool_is_needed(made, name):
    states, labels, domains = made
    score = candidates(NAMES, 0.1, 1.0, 0)[name](states[:120, 1], labels[:120], domains[:120])
    said = score(states[120:, 1])
    assert said.shape == (40,)
    assert ((said > 0) == labels[120:]).mean() > 0.85


def test_ours_asks_all_probes_and_the_other_the_likeliest_domains_alone(monkeypatch):
    class Fitted:
        def route(self, states):
            return np.array([2])

        def p_tool(self, states, routed=None):
            return np.array([0.7]) if routed is None else np.array([0.1, 0.2, 0.3])[routed]

    monkeypatch.setattr(gates, "fit_readers", lambda *_: Fitted())
    ours, routed = (candidates(["a", "b", "c"], 0.1, 1.0, 0)[name](*[None] * 2, []) for name in (OURS_GATE, ROUTED))
    assert (ours(np.zeros((1, 2))), routed(np.zeros((1, 2)))) == (pytest.approx(0.2), pytest.approx(-0.2))


def none_spare(made) -> tuple:
    return tuple(part[:0] for part in made)


def compared(made, layer: int, other: int) -> list[dict]:
    fitted = np.arange(ROWS) < 120
    return compare_gates(*made, fitted, layer, other, NAMES, 0.1, 1.0, 0, none_spare(made))


@pytest.mark.slow
def test_what_a_layer_holds_is_found_there_and_what_it_does_not_is_not(made):
    """Ours first, its distance from itself 0; the pair of layers reads what either holds."""
    there, nowhere = compared(made, 1, 0), compared(made, 0, 1)
    assert there[0]["gate"] == OURS_GATE and there[0]["ahead"] == {"mean": 0.0, "std": 0.0}
    assert [row["gate"] for row in there[-3:]] == ["ours on layers 1 and 0", ROUTED_WITH_SPARE, WITH_SPARE]
    for row in there:
        assert row["valid"]["auc"] > 0.95 and row["folds"]["f1"]["mean"] > 0.85 and row["folds"]["fpr"]["mean"] < 0.2
    for row in [*nowhere[:-3], *nowhere[-2:]]:
        assert 0.3 < row["folds"]["auc"]["mean"] < 0.7
    assert nowhere[-3]["folds"]["auc"]["mean"] > 0.95 and nowhere[-3]["ahead"]["mean"] > 0.2


@pytest.mark.slow
def test_valid_is_judged_by_what_was_fitted_without_it(made):
    """Labels of VALID that are turned round make its AUC small; it would be large had they been fitted."""
    states, labels, domains = made
    turned = np.where(np.arange(ROWS) < 120, labels, 1 - labels)
    rows = compare_gates(states, turned, domains, np.arange(ROWS) < 120, 1, 0, NAMES, 0.1, 1.0, 0, none_spare(made))
    assert max(row["valid"]["auc"] for row in rows) < 0.1


@pytest.mark.slow
def test_a_valid_of_one_label_has_no_auc_and_no_fpr(made):
    states, labels, domains = made
    needed = np.where(np.arange(ROWS) < 120, labels, 1)
    first, *_ = compare_gates(
        states, needed, domains, np.arange(ROWS) < 120, 1, 0, NAMES, 0.1, 1.0, 0, none_spare(made)
    )
    assert (first["valid"]["auc"], first["valid"]["fpr"]) == (None, None) and first["valid"]["f1"] > 0.5
    assert first["folds"]["auc"]["mean"] > 0.5  # the folds have both


@pytest.mark.slow
def test_spare_requests_are_fitted_by_the_last_two_gates_alone(made):
    """Many of them, with the opposite labels: those unlearn what the others find."""
    states, labels, domains = made
    spare = (np.tile(states, (20, 1, 1)), 1 - np.tile(labels, 20), np.tile(domains, 20))
    *others, routed, last = compare_gates(*made, np.arange(ROWS) < 120, 1, 0, NAMES, 0.1, 1.0, 0, spare)
    assert (routed["gate"], last["gate"]) == (ROUTED_WITH_SPARE, WITH_SPARE)
    for row in (routed, last):
        assert row["valid"]["auc"] < 0.1 and row["folds"]["auc"]["mean"] < 0.1
    assert others == compared(made, 1, 0)[:-2]


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES[:1], NAMES])
def test_the_smallest_set_is_compared_by_every_gate(names):
    """A row a domain and label in CAL, TRAIN and VALID: three folds, and fewer rows than axes and landmarks."""
    cells = [(name, label) for _ in range(3) for name in names for label in (0, 1)]
    domains, labels = (np.array(column) for column in zip(*cells, strict=True))
    states = np.random.default_rng(0).standard_normal((len(cells), 2, HIDDEN)).astype(np.float32)
    fitted = np.arange(len(cells)) < len(cells) * 2 // 3
    given = (states, labels, domains)
    rows = compare_gates(*given, fitted, 1, 0, names, 0.1, 1.0, 0, none_spare(given))
    more = ["ours on layers 1 and 0", ROUTED_WITH_SPARE, WITH_SPARE]
    assert [row["gate"] for row in rows] == [*candidates(names, 0.1, 1.0, 0), *more]
    for row in rows:
        assert all(np.isfinite(value) for value in row["valid"].values()) and 0 <= row["valid"]["auc"] <= 1
        assert all(np.isfinite(of["mean"]) for of in row["folds"].values())
