"""Geometry: known directions give known cosines, layer by layer and domain by domain."""

import json

import numpy as np
import pytest

from asa.method.directions import ENOUGH
from asa.study.geometry import geometry

NAMES = ["math", "code"]
LABELS = np.tile([0, 0, 1, 1], 16)
CALLED = np.tile([False, True], 32)  # as often with the need as without
DOMAINS = np.repeat(NAMES, 32)
CODE = DOMAINS == "code"
TRIGGER = np.array([0.0, 2.0, 0.0])


def cosines_of(here: np.ndarray, called=CALLED, log_odds=None, trigger=TRIGGER) -> dict[str, dict[str, float]]:
    """Pair -> domain -> cosine at a layer whose states are `here` `[64, 3]`."""
    odds = np.where(called, 1.0, -1.0) if log_odds is None else log_odds
    found = geometry(here[:, None].astype(np.float32), LABELS, called, odds, list(DOMAINS), NAMES, trigger)
    return {pair: {name: row[0] for name, row in of.items()} for pair, of in found.items()}


def test_each_pair_of_directions_has_its_cosine():
    """Need along (1, 0, 0), calls along (3, 4, 0), the trigger's row along (0, 1, 0), whatever its length."""
    here = LABELS[:, None] * [1.0, 0, 0] + CALLED[:, None] * [3.0, 4, 0] + 7
    expected = {"necessity_action": 0.6, "necessity_trigger": 0.0, "action_trigger": 0.8}
    found = cosines_of(here)
    assert {pair: of["global"] for pair, of in found.items()} == pytest.approx(expected, abs=1e-5)
    assert cosines_of(here, trigger=TRIGGER / 100) == {pair: pytest.approx(of) for pair, of in found.items()}
    opposite = cosines_of(here, trigger=-TRIGGER)
    assert opposite["action_trigger"]["global"] == pytest.approx(-0.8, abs=1e-5)
    assert opposite["necessity_action"] == found["necessity_action"]


def test_each_domain_has_its_own_cosines():
    """In code the model calls against the need; over both domains the two cancel."""
    sign = np.where(CODE, -1.0, 1.0)
    here = LABELS[:, None] * [1.0, 0, 0] + (sign * CALLED)[:, None] * [1.0, 0, 0] + CALLED[:, None] * [0, 1.0, 0]
    found = cosines_of(here)
    assert list(found["necessity_action"]) == ["global", *NAMES]
    half = 0.5**0.5
    assert found["necessity_action"] == pytest.approx({"global": 0, "math": half, "code": -half}, abs=1e-5)
    assert found["action_trigger"] == pytest.approx({"global": 1, "math": half, "code": half}, abs=1e-5)


def test_where_the_model_hardly_calls_the_log_odds_give_the_direction():
    """Odds that lie along the third axis, calls along the second."""
    few = np.zeros(64, bool)
    few[[1, 33]] = True
    assert few.sum() < ENOUGH
    odds = np.tile([-1.0, 1, 1, -1], 16)
    here = LABELS[:, None] * [1.0, 0, 0] + odds[:, None] * [0, 0, 1.0]
    found = cosines_of(here, called=few, log_odds=odds, trigger=np.array([0, 0, 1.0]))
    assert found["action_trigger"]["global"] == pytest.approx(1, abs=1e-5)


def test_a_constant_layer_has_no_cosines():
    """The others keep their places, and the whole is plain JSON."""
    states = np.ones((64, 3, 3), np.float32)
    states[:, 1] += LABELS[:, None] * [1.0, 0, 0] + CALLED[:, None] * [0, 1.0, 0]
    found = geometry(states, LABELS, CALLED, CALLED * 2.0 - 1, list(DOMAINS), NAMES, TRIGGER)
    assert list(found) == ["necessity_action", "necessity_trigger", "action_trigger"]
    for of in found.values():
        for row in of.values():
            assert [at is None for at in row] == [True, False, True]
    assert found["action_trigger"]["code"][1] == pytest.approx(1, abs=1e-5)
    assert json.loads(json.dumps(found)) == found
