"""Calibration: what the readers did not learn from says how far p_tool reaches."""

import numpy as np
import pytest

from asa.data.requests import Request
from asa.data.splits import ReadSplit
from asa.method.calibration import QUANTILES, calibration, held_back
from asa.method.recipe import Recipe

NAMES = ["math", "code"]


def read_split(rng: np.random.Generator, names: list[str], rows: int, width: int = 150) -> ReadSplit:
    """Requests whose states tell their domain, and nothing of their label."""
    states = rng.standard_normal((rows, 2, width)).astype(np.float32)
    requests = []
    for row in range(rows):
        states[row, :, row % len(names)] += 4
        requests.append(Request(f"request {row}", row // len(names) % 2, names[row % len(names)], ""))
    return ReadSplit(requests, [[1]] * rows, states, np.zeros(rows, bool), np.zeros(rows, np.float32))


@pytest.fixture
def drawn():
    """A recipe whose domains can be told apart and whose labels cannot, and VALID."""
    rng = np.random.default_rng(3)
    known, valid = (read_split(rng, NAMES, rows) for rows in (120, 40))
    return Recipe(known, known, NAMES, 0.1, 4.0), valid


def test_no_request_is_judged_by_readers_that_learned_from_it(drawn):
    """Of labels that nothing tells, readers know those they saw; held back, they know none."""
    recipe, valid = drawn
    p_tool, labels = held_back(recipe, valid, layer=1, seed=0)
    assert len(p_tool) == len(labels) == 160 and labels.tolist() == [*recipe.known.labels, *valid.labels]
    seen = recipe.readers(1).p_tool(recipe.known.states[:, 1])
    assert auc(seen, recipe.known.labels) > 0.95
    assert 0.3 < auc(p_tool[:120], labels[:120]) < 0.7
    np.testing.assert_array_equal(p_tool[120:], recipe.readers(1).p_tool(valid.states[:, 1]))


def test_the_same_seed_gives_the_same(drawn):
    """And another one other parts."""
    first, again, other = (held_back(*drawn, layer=0, seed=seed)[0] for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_a_cell_with_few_requests(drawn):
    """As many parts as the smallest domain and label has requests."""
    recipe, valid = drawn
    places = np.array(recipe.known.domains)
    math = np.flatnonzero((places == "math") & (recipe.known.labels == 1))[:2]
    rows = np.concatenate([math, np.flatnonzero((places != "math") | (recipe.known.labels == 0))])
    few = Recipe(recipe.known, recipe.known.chosen(rows), NAMES, 0.1, 0.0)
    assert np.isfinite(held_back(few, valid, 0, 0)[0]).all()


def test_quantiles_of_both_labels():
    """From the lowest to the highest."""
    p_tool = np.linspace(0, 1, 200)
    found = calibration(p_tool, (p_tool > 0.5).astype(int))
    assert {name: len(of) for name, of in found.items()} == {"unneeded": QUANTILES, "needed": QUANTILES}
    assert found["unneeded"][0] == 0 and found["needed"][-1] == 1
    assert found["unneeded"] == sorted(found["unneeded"]) and found["unneeded"][-1] < found["needed"][0]


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs in the right order."""
    pairs = scores[labels == 1][:, None] - scores[labels == 0][None]
    return float((pairs > 0).mean())
