"""Damage: distances and likelihoods are those of their plain definitions, and no answer is scored twice."""

import numpy as np
import pytest
import torch
from helpers import assert_likely, assert_near, full_likelihood, full_logits, plain_and_true
from scipy.stats import entropy
from truth import allowed_error

import asa.engine.engine
from asa.engine.answering import answer_all
from asa.engine.batch import Batch
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.evaluation.metrics import rate_of
from asa.models.fitting import shared_prefix
from asa.study.damage import Spared, forced_kl, kl_by_gate, likelihoods, next_token_kl

LAYER = 1
ROWS = np.array([True, False, True, True, False, True, True, False, True, True, True, False])


@pytest.fixture
def engine(tiny_model, prompts, monkeypatch) -> Engine:
    """Cuts the twelve prompts into three batches."""
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 5)
    return Engine(tiny_model, shared_prefix(prompts))


def test_the_distance_is_kl_of_the_steered_from_the_unsteered_distribution(tiny_model, engine, prompts):
    """In this order of the two, row by row; a row without a push has not moved at all."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    push = np.random.default_rng(0).standard_normal(reading.states[:, LAYER].shape).astype(np.float32)
    push *= np.linspace(0.05, 3.0, 12)[:, None].astype(np.float32)
    push[[0, 6]] = 0

    def distances(model) -> list[tuple[float, float]]:
        pairs = []
        for prompt, delta in zip(prompts, torch.from_numpy(push), strict=True):
            pushes = (None, (LAYER, delta))
            before, after = (full_logits(model, prompt, [], pushed)[-1].softmax(-1) for pushed in pushes)
            pairs.append((entropy(after, before), entropy(before, after)))
        return pairs

    plain, true = plain_and_true(tiny_model, distances)
    found = next_token_kl(batches, reading.states, LAYER, push)
    assert_near(torch.from_numpy(found), true[:, 0], allowed_error((plain[:, 0].float(), true[:, 0])))
    assert np.abs(found - true[:, 1].numpy()).max() > 0.1 and found.max() > 0.5
    assert found[[0, 6]].tolist() == [0, 0] and (found >= 0).all()


@pytest.mark.parametrize("trigger", [0, 3])
def test_forcing_and_forbidding_move_an_explicit_distribution_as_far(trigger):
    """Forced, all mass is on the trigger; forbidden, the rest shares it as before."""
    before = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
    forced, forbidden = np.eye(5)[trigger], np.where(np.arange(5) == trigger, 0, before)
    odds = np.log(before[trigger] / (1 - before[trigger]))
    found = forced_kl(np.full(3, odds), np.array([1, -1, 0]))
    assert found == pytest.approx([entropy(forced, before), entropy(forbidden, before), 0])


def test_forcing_what_is_certain_costs_nothing_and_forbidding_it_much():
    found = forced_kl(np.array([60.0, 60.0, -60.0, -60.0], np.float32), np.array([1, -1, 1, -1]))
    assert found == pytest.approx([0, 60, 60, 0], abs=1e-6)


def test_distances_are_averaged_gate_by_gate():
    apart, gate = np.array([0.1, 0.5, 0.7, 0.3]), np.array([1, -1, -1, 1])
    assert kl_by_gate(apart, gate) == {"-1": [pytest.approx(0.6), 2], "+0": [None, 0], "+1": [pytest.approx(0.2), 2]}
    assert kl_by_gate(apart[:1], np.array([0])) == {"-1": [None, 0], "+0": [0.1, 1], "+1": [None, 0]}


@pytest.fixture
def unsteered(engine, prompts):
    """Batches and what the model says, four tokens at most."""
    batches = list(engine.batches(prompts, "test"))
    return batches, answer_all(batches, 4, lambda answer: answer[-1] % 5 == 0, "test")


@pytest.fixture
def scored(monkeypatch) -> list[int]:
    """The row numbers whose answers were scored, one after the other."""
    rows, score = [], Batch.log_likelihood
    monkeypatch.setattr(Batch, "log_likelihood", lambda self, answers: rows.extend(self.rows) or score(self, answers))
    return rows


def test_likelihoods_of_the_chosen_rows(tiny_model, prompts, unsteered, scored):
    batches, _ = unsteered
    answers = [[10 + row, 300 - row][: 1 + row % 2] for row in range(12)]
    found = likelihoods(batches, answers, ROWS)
    assert sorted(scored) == np.flatnonzero(ROWS).tolist()
    assert sorted(found) == sorted(scored)
    assert_likely(list(found.values()), tiny_model, *([of[row] for row in found] for of in (prompts, answers)))
    assert likelihoods(batches, answers, np.zeros(12, bool)) == {}


def test_damage_counts_the_spared_answers_only(tiny_model, prompts, unsteered):
    """Rows 3 and 8 change, and 1, 4 and 7, which need a tool; 2, 3 and 5 were in words."""
    batches, before = unsteered
    in_words = np.isin(np.arange(12), [2, 3, 5])
    answers = [list(answer) for answer in before]
    for row in (1, 3, 4, 7, 8):
        answers[row] = [9, 42, 301]
    assert not any(answer[:1] == [9] for answer in before)
    found = Spared(batches, before, ROWS, in_words).damage(answers)
    rows = np.flatnonzero(ROWS)
    assert list(found) == ["unchanged", "words_kept", "log_p"]
    assert (found["unchanged"], found["words_kept"]) == (rate_of(6, 8), rate_of(2, 3))
    plain, true = plain_and_true(
        tiny_model, lambda model: torch.stack([full_likelihood(model, prompts[row], answers[row]) for row in rows])
    )
    assert_near(torch.tensor([found["log_p"]]), true.mean(0, keepdim=True), allowed_error((plain, true)))


def test_unchanged_answers_are_no_damage(tiny_model, prompts, unsteered):
    """Where no answer was in words, none can be kept; greedy answers are likelier than the same of other requests."""
    batches, before = unsteered
    spared = Spared(batches, before, ROWS, np.zeros(12, bool))
    same = spared.damage([list(answer) for answer in before])
    assert (same["unchanged"], same["words_kept"]) == (rate_of(8, 8), rate_of(0, 0))
    others = spared.damage(before[1:] + before[:1])
    assert others["log_p"] < same["log_p"] < 0 and others["unchanged"]["rate"] < 1


def test_without_a_spared_request_there_is_no_damage_to_measure(unsteered):
    batches, before = unsteered
    none = np.zeros(12, bool)
    nothing = {"rate": None, "interval": None, "hits": 0, "total": 0}
    assert Spared(batches, before, none, none).damage(before) == {
        "unchanged": nothing, "words_kept": nothing, "log_p": None,
    }  # fmt: skip


def test_an_answer_is_scored_once(unsteered, scored):
    """Again only where it is another, or another request's; what needs a tool is never scored."""
    batches, before = unsteered
    spared = Spared(batches, before, ROWS, ROWS)
    first = spared.damage(before)
    assert sorted(scored) == np.flatnonzero(ROWS).tolist()
    scored.clear()
    assert spared.damage([list(answer) for answer in before]) == first and scored == []
    changed = list(before)
    changed[5], changed[1] = [9, 42], [9, 42]
    second = spared.damage(changed)
    assert scored == [5] and second["log_p"] != first["log_p"]
    scored.clear()
    changed[8] = [9, 42]
    spared.damage(changed)
    assert scored == [8]
    assert spared.damage(before) == first and scored == [8]
