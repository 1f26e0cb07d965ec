"""Dose curves: points of a model of which the right answer is known, by what it does after the push."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from asa.method.directions import ACTION, DIRECTIONS, NECESSITY
from asa.method.tuning import DOSES
from asa.study import curves
from asa.study.curves import dose_curves, layer_curve

TRIGGER, HIDDEN, NORM, FAR = 2, 4, {1: 10.0, 2: 30.0}, 6.0
LABELS = [1, 1, 1, 0, 0, 0]
P_TOOL = np.array([0.9, 0.9, 0.6, 0.1, 0.1, 0.9])  # at tau .8 row 2 is left alone; row 5 is pushed up wrongly
GATE = np.array([1, 1, 0, -1, -1, 1])
ROUTED = np.array([0, 1, 0, 1, 0, 0])
STATE = np.array([-1.6, -0.6, -1.0, 0.4, 2.8, -3.2], np.float32)  # unsteered, rows 3 and 4 call
AXIS = np.eye(HIDDEN, dtype=np.float32)


class FakeBatch:
    """A model that calls a tool where the state's first coordinate is above 0, unless it is pushed beyond `FAR`."""

    def __init__(self, rows):
        self.rows = rows
        self.own_mask = torch.ones(len(rows), 1, dtype=torch.bool)

    def replay(self, layer, hidden):
        return torch.from_numpy(logits_of(hidden[:, 0].numpy()))


def logits_of(along: np.ndarray) -> np.ndarray:
    logits = np.zeros((len(along), 4), np.float32)
    logits[:, TRIGGER] = np.where(along > FAR, -1, along)
    return logits


@pytest.fixture
def given() -> dict:
    """Two layers, at the second of which states are longer; necessity lies across what the model does."""
    states = np.zeros((6, 3, HIDDEN), np.float32)
    states[:, 1, 0] = states[:, 2, 0] = STATE
    readers = {
        layer: SimpleNamespace(
            domains=["math", "code"], mean_norm=norm, route=lambda here: ROUTED, p_tool=lambda here: P_TOOL
        )
        for layer, norm in NORM.items()
    }
    across = {"global": AXIS[0], "math": AXIS[1], "code": AXIS[2]}  # beta is 0: the global one has no say
    along = {"global": AXIS[3], "math": AXIS[0], "code": AXIS[0]}
    directions = {(kind, layer): of for kind, of in ((NECESSITY, across), (ACTION, along)) for layer in NORM}
    return {
        "batches": [FakeBatch([5, 0, 2]), FakeBatch([3, 1, 4])], "states": states, "labels": LABELS,
        "readers": readers, "directions": directions, "tau": 0.8, "trigger_id": TRIGGER,
    }  # fmt: skip


def after(layer: int, dose: float, kind: str) -> np.ndarray:
    """`[6]`, the coordinate that the model acts on."""
    return STATE + (dose * NORM[layer] * GATE if kind == ACTION else 0)


def rates(along: np.ndarray) -> tuple[float, float]:
    """F1 and FPR, worked out from the counts."""
    called = (along > 0) & (along <= FAR)
    tp, fp = called[:3].sum(), called[3:].sum()
    return 2 * tp / (2 * tp + fp + 3 - tp), fp / 3


def far_apart(along: np.ndarray) -> float:
    """KL(after || before) of the next token, mean over rows 3 to 5, which need no tool and are all pushed."""
    new, old = (torch.from_numpy(logits_of(x)).double().softmax(-1).numpy() for x in (along, STATE))
    return float(np.mean([entropy(new[row], old[row]) for row in (3, 4, 5)]))


def test_every_point_says_what_the_model_does_after_its_push(given):
    points = dose_curves(**given, fitting=lambda rows, layer, push: 0.0)
    assert [(p["layer"], p["direction"], p["dose"]) for p in points] == [
        (layer, kind, dose) for layer in (1, 2) for kind in DIRECTIONS for dose in DOSES
    ]
    for point in points:
        along = after(point["layer"], point["dose"], point["direction"])
        assert (point["f1"], point["fpr"]) == pytest.approx(rates(along)), point
        assert point["kl"] == pytest.approx(far_apart(along), abs=1e-5), point
    of = {(p["layer"], p["direction"], p["dose"]): p for p in points}
    assert of[1, ACTION, 0.05]["f1"] == 0.0  # 10 * .05 turns row 3 away and nobody up
    assert (of[1, ACTION, 0.2]["f1"], of[1, ACTION, 0.2]["fpr"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert of[2, ACTION, 0.75]["f1"] == 0.0  # too far
    assert {(p["f1"], p["fpr"], p["kl"]) for p in points if p["direction"] == NECESSITY} == {(0.0, 2 / 3, 0.0)}


def test_the_distance_counts_only_pushed_requests_that_need_no_tool(given, monkeypatch):
    """Their mean, and None where there are none; then there is no false-positive rate either."""
    distances = np.array([100.0, 100, 100, 0.1, 0.4, 100])
    monkeypatch.setattr(curves, "next_token_kl", lambda *_: distances)
    readers = {1: SimpleNamespace(**vars(given["readers"][1]) | {"p_tool": lambda here: np.append(P_TOOL[:5], 0.5)})}
    points = dose_curves(**given | {"readers": readers}, fitting=lambda *_: 0.0)
    assert {point["kl"] for point in points} == {0.25}
    points = dose_curves(**given | {"readers": readers, "labels": [1] * 6}, fitting=lambda *_: 0.0)
    assert {(point["kl"], point["fpr"]) for point in points} == {(None, None)}


def test_calls_are_generated_under_the_point_s_push_for_requests_that_need_a_tool(given):
    """Row 2 is not pushed, and row 5 needs none."""
    asked = []
    points = dose_curves(**given, fitting=lambda *what: asked.append(what) or len(asked) / 100)
    assert [point["arguments"] for point in points] == [number / 100 for number in range(1, len(points) + 1)]
    for point, (rows, layer, push) in zip(points, asked, strict=True):
        assert rows.tolist() == [True, True, False, False, False, False]
        assert layer == point["layer"] and push.dtype == np.float32
        vectors = np.array([given["directions"][point["direction"], layer][("math", "code")[d]] for d in ROUTED])
        assert push == pytest.approx(point["dose"] * NORM[layer] * GATE[:, None] * vectors, abs=1e-5)


@pytest.mark.parametrize(("most", "taken"), [(4, 4), (8, 8), (9, 8), (40, 8)])
def test_the_sample_of_calls_is_spread_over_the_requests(given, monkeypatch, most, taken):
    """Eight of sixteen need a tool and are pushed up; the sample is the same at every dose."""
    monkeypatch.setattr(curves, "SAMPLED_CALLS", most)
    readers = {
        1: SimpleNamespace(
            domains=["math", "code"], mean_norm=1.0, route=lambda here: np.zeros(16, int),
            p_tool=lambda here: np.tile([0.9, 0.9, 0.5, 0.1], 4),
        )
    }  # fmt: skip
    labels, samples = np.tile([1, 1, 1, 0], 4), []
    changed = {"readers": readers, "labels": labels, "batches": [FakeBatch(list(range(16)))]}
    changed["states"] = np.zeros((16, 3, HIDDEN), np.float32)
    dose_curves(**given | changed, fitting=lambda rows, layer, push: samples.append(rows) or 0.0)
    assert len(samples) == len(DIRECTIONS) * len(DOSES) and len({rows.tobytes() for rows in samples}) == 1
    rows = np.flatnonzero(samples[0])
    assert len(rows) == taken and set(rows) <= {0, 1, 4, 5, 8, 9, 12, 13}
    assert rows[0] <= 1 and rows[-1] >= 12


def test_a_layer_is_drawn_at_its_best_dose(given):
    """Which is neither the first nor the last here."""
    found = layer_curve(**given)
    assert found == [
        {"layer": layer} | {k: pytest.approx(max(rates(after(layer, d, k))[0] for d in DOSES)) for k in DIRECTIONS}
        for layer in (1, 2)
    ]
    ends = [rates(after(layer, dose, ACTION))[0] for layer in (1, 2) for dose in (DOSES[0], DOSES[-1])]
    assert max(ends) < found[0][ACTION] < found[1][ACTION] and found[0][NECESSITY] == 0.0
