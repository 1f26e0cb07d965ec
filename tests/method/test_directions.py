"""Vectors: worked out by hand, always of length 1, and refused where there is no direction."""

import numpy as np
import pytest

from asa.method.directions import (
    ACTION,
    ENOUGH,
    GLOBAL,
    NECESSITY,
    action_direction,
    cosine_matrix,
    fit_directions,
    mean_difference,
    mixed,
    unit,
)

HALF = np.sqrt(0.5)


def test_a_mean_difference_worked_out_by_hand():
    """Means (3, 4) and (0, 0): the direction is (.6, .8)."""
    states = np.array([[2, 5], [4, 3], [1, -1], [-1, 1]], np.float32)
    found = mean_difference(states, np.array([True, True, False, False]))
    assert np.allclose(found, [0.6, 0.8]) and found.dtype == np.float32
    assert np.allclose(mean_difference(states, np.array([False, False, True, True])), [-0.6, -0.8])


def test_a_small_difference_of_large_states_survives():
    """Means are taken in double precision: fp32 would lose what lies below 1e-3 of 1e4."""
    states = np.full((2000, 3), 1e4, np.float32)
    states[:1000, 1] += 0.005
    step = float(states[0, 1]) - 1e4
    assert step > 0
    assert np.allclose(mean_difference(states, np.arange(2000) < 1000), [0, 1, 0])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_every_direction_has_length_one(scale):
    rng = np.random.default_rng(0)
    states = (scale * rng.standard_normal((60, 7))).astype(np.float32)
    labels, odds = np.arange(60) % 2, rng.standard_normal(60).astype(np.float32)
    domains = ["math" if i < 30 else "code" for i in range(60)]
    for kind in (NECESSITY, ACTION):
        directions = fit_directions(kind, states, labels, domains, odds > 0, odds, ["math", "code"])
        assert list(directions) == [GLOBAL, "math", "code"]
        for vector in directions.values():
            assert vector.shape == (7,) and vector.dtype == np.float32
            assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        assert np.allclose(np.linalg.norm(mixed(directions, 0.3, ["math", "code"]), axis=1), 1, atol=1e-6)


def test_zero_or_broken_differences_are_refused():
    same = np.ones((4, 3), np.float32)
    with pytest.raises(ValueError, match="zero or not finite"):
        mean_difference(same, np.array([True, True, False, False]))
    for bad in (np.zeros(3), np.array([np.nan, 1, 0]), np.array([np.inf, 1, 0])):
        with pytest.raises(ValueError, match="zero or not finite"):
            unit(bad)
    with pytest.raises(ValueError, match="zero or not finite"):  # log-odds that say nothing
        action_direction(np.eye(4, dtype=np.float32), np.zeros(4, bool), np.full(4, -2.0))


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
def test_a_label_that_is_missing_has_no_direction():
    with pytest.raises(ValueError, match="zero or not finite"):
        mean_difference(np.eye(4, dtype=np.float32), np.ones(4, bool))


def scene(called: int, silent: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States whose first axis shows the call and whose second follows the log-odds."""
    triggered = np.arange(called + silent) < called
    odds = np.where(np.arange(called + silent) % 2, 3.0, -3.0).astype(np.float32)
    states = np.zeros((called + silent, 3), np.float32)
    states[:, 0] = triggered
    states[:, 1] = odds
    return states, triggered, odds


def test_eight_of_either_are_enough_for_the_mean_difference():
    assert ENOUGH == 8
    states, triggered, odds = scene(8, 8)
    assert np.allclose(action_direction(states, triggered, odds), [1, 0, 0])


@pytest.mark.parametrize(("called", "silent"), [(7, 9), (9, 7), (0, 16), (16, 0), (1, 40)])
def test_with_fewer_the_covariance_with_the_log_odds_takes_its_place(called, silent):
    states, triggered, odds = scene(called, silent)
    found = action_direction(states, triggered, odds)
    expected = ((states - states.mean(0)) * (odds - odds.mean())[:, None]).mean(0)
    assert np.allclose(found, expected / np.linalg.norm(expected), atol=1e-6)
    assert found[1] > 0.98


def test_the_covariance_points_toward_calling():
    """Log-odds that rise along +x give +x, whatever their mean and whatever the states' mean."""
    odds = np.array([-5.0, -4, -3, -2], np.float32)
    states = np.stack([100 + odds, np.full(4, 7)], axis=1).astype(np.float32)
    assert np.allclose(action_direction(states, np.zeros(4, bool), odds), [1, 0])
    assert np.allclose(action_direction(-states, np.zeros(4, bool), odds), [-1, 0])


def test_necessity_uses_labels_and_action_what_happened():
    """Per domain and over all; the two kinds need not agree."""
    count = 40
    place, labels = np.arange(count) % 2, (np.arange(count) // 2) % 2
    triggered = (np.arange(count) // 4) % 2 == 1
    states = np.zeros((count, 4), np.float32)
    states[:, 0] = labels * (place == 0)
    states[:, 1] = labels * (place == 1)
    states[:, 2] = 2 * triggered * (place == 0)
    states[:, 3] = 2 * triggered * (place == 1)
    domains = [["math", "code"][i] for i in place]
    odds = np.zeros(count, np.float32)
    necessity = fit_directions(NECESSITY, states, labels.tolist(), domains, triggered, odds, ["math", "code"])
    assert np.allclose(necessity["math"], [1, 0, 0, 0]) and np.allclose(necessity["code"], [0, 1, 0, 0])
    assert np.allclose(necessity[GLOBAL], [HALF, HALF, 0, 0])
    action = fit_directions(ACTION, states, labels.tolist(), domains, triggered, odds, ["math", "code"])
    assert np.allclose(action["math"], [0, 0, 1, 0]) and np.allclose(action["code"], [0, 0, 0, 1])
    assert np.allclose(action[GLOBAL], [0, 0, HALF, HALF])


DIRECTIONS = {
    GLOBAL: np.array([1, 0, 0], np.float32),
    "math": np.array([0, 1, 0], np.float32),
    "code": np.array([0.6, 0, 0.8], np.float32),
}


@pytest.mark.parametrize(
    ("beta", "math", "code"),
    [
        (0.0, [0, 1, 0], [0.6, 0, 0.8]),
        (0.5, [HALF, HALF, 0], np.array([0.8, 0, 0.4]) / np.sqrt(0.8)),
        (0.25, np.array([0.25, 0.75, 0]) / np.sqrt(0.625), np.array([0.7, 0, 0.6]) / np.sqrt(0.85)),
        (1.0, [1, 0, 0], [1, 0, 0]),
    ],
)
def test_mixing_follows_the_formula(beta, math, code):
    """v = unit((1 - beta) * u_d + beta * u_global), rows in the order of the names."""
    assert np.allclose(mixed(DIRECTIONS, beta, ["math", "code"]), [math, code], atol=1e-6)
    assert np.allclose(mixed(DIRECTIONS, beta, ["code", "math"]), [code, math], atol=1e-6)


def test_opposite_directions_that_cancel_are_refused():
    with pytest.raises(ValueError, match="zero"):
        mixed({GLOBAL: np.array([1.0, 0]), "math": np.array([-1.0, 0])}, 0.5, ["math"])


def test_cosines_are_symmetric_with_ones_on_the_diagonal():
    matrix = cosine_matrix(DIRECTIONS | {"search": np.array([0, 0.6, -0.8], np.float32)}, ["math", "code", "search"])
    assert np.allclose(matrix, matrix.T)
    assert np.allclose(matrix, [[1, 0, 0.6], [0, 1, -0.64], [0.6, -0.64, 1]], atol=1e-6)
