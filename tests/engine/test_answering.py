"""Running over splits: readings and answers, row by row, against the plain way."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import fit_adapter
from helpers import assert_near, closed, exact, full_forwards, generated
from truth import allowed_error

import asa.engine.engine
from asa.engine.answering import answer_all, answer_steered
from asa.engine.batch import LastToken
from asa.engine.decoding import Decoder
from asa.engine.engine import Engine
from asa.engine.states import Reading, read_batch, read_prompts, read_states
from asa.models.fitting import shared_prefix

LIMIT = 8


@pytest.fixture
def engine(tiny_model, prompts, monkeypatch) -> Engine:
    """Cuts the twelve prompts into three batches."""
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 5)
    return Engine(tiny_model, shared_prefix(prompts))


@pytest.fixture(scope="module")
def fitted(tiny_model, prompts):
    return fit_adapter(tiny_model, prompts)


def test_a_reading_is_what_the_model_holds(tiny_model, engine, prompts):
    """States, the next token and its log-odds, in the order of the prompts; kept batches or not makes no difference."""
    plain = full_forwards(tiny_model, prompts)
    with exact(tiny_model) as twin:
        true = full_forwards(twin, prompts)
    trigger = int(true.logits[3].argmax())  # what prompt 3 says next
    reading, batches = read_prompts(engine, prompts, trigger, "test")
    again = read_states(engine, prompts, trigger, "test")
    assert [len(batch.rows) for batch in batches] == [5, 5, 2]
    for name in ("states", "called", "log_odds"):
        assert np.array_equal(getattr(reading, name), getattr(again, name))
    assert reading.states.dtype == reading.log_odds.dtype == np.float32
    assert_near(torch.from_numpy(reading.states), true.states, allowed_error((plain.states, true.states)))
    assert reading.called.dtype == bool
    assert reading.called.tolist() == (true.logits.argmax(1) == trigger).tolist()
    assert reading.called[3] and not reading.called.all()
    odds, true_odds = (of.logits.double().softmax(-1)[:, trigger].logit() for of in (plain, true))
    assert_near(torch.from_numpy(reading.log_odds), true_odds, allowed_error((odds.float(), true_odds)))


def of_logits(logits: torch.Tensor, trigger: int) -> Reading:
    """The reading of made-up logits."""
    return read_batch(SimpleNamespace(last_token=lambda: LastToken(torch.zeros(len(logits), 1, 1), logits)), trigger)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_log_odds_are_log_p_over_one_minus_p(dtype):
    """Also near 0 and 1, where they stay finite and keep their order."""
    logits = torch.zeros(7, 3, dtype=dtype)
    logits[:, 1] = torch.tensor([-60.0, -9, -1, 0, 1, 6, 60])
    found = of_logits(logits, 1)
    z = logits[:, 1].double().numpy() - np.log(2)  # p = e^x / (e^x + 2)
    np.testing.assert_allclose(found.log_odds[:6], z[:6], atol=2e-3)
    assert np.isfinite(found.log_odds).all() and found.log_odds[6] > 10
    assert (np.diff(found.log_odds) > 0).all()
    assert found.called.tolist() == [False, False, False, False, True, True, True]  # a tie goes to the first token


def test_unsteered_answers_come_in_the_order_of_the_prompts(tiny_model, engine, prompts):
    """From several batches whose rows are sorted by length."""
    _, batches = read_prompts(engine, prompts, 9, "test")
    assert [row for batch in batches for row in batch.rows] != list(range(len(prompts)))
    assert answer_all(batches, LIMIT, closed, "test") == [generated(tiny_model, prompt, LIMIT) for prompt in prompts]


def steered(batches, reading, adapter, unsteered):
    """Answers and decisions of one adapter."""
    return answer_steered(batches, reading, {"asa": adapter}, unsteered, LIMIT, closed, "test")["asa"]


def test_steered_answers(tiny_model, engine, prompts, fitted):
    """A row with gate 0 keeps the answer it came with; every other row is pushed by its own g * alpha * v, once."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    adapter = fitted.adapter
    kept = [[-row] for row in range(len(prompts))]  # no model says this
    given = [list(answer) for answer in kept]
    answers, decisions = steered(batches, reading, adapter, given)
    assert given == kept
    gates = [decision.gate for decision in decisions]
    assert set(gates) == {-1, 0, 1}
    delta, expected = adapter.push(fitted.states)
    assert [(d.domain, d.gate, d.layer) for d in decisions] == [(d.domain, d.gate, d.layer) for d in expected]
    np.testing.assert_allclose([d.p_tool for d in decisions], [d.p_tool for d in expected], atol=1e-4)
    for row, (answer, gate) in enumerate(zip(answers, gates, strict=True)):
        if not gate:
            assert answer is given[row]
            continue
        assert answer == generated(tiny_model, prompts[row], LIMIT, (adapter.layer, delta[row]))
    pushed = [row for row, gate in enumerate(gates) if gate]
    assert sum(answers[row] != generated(tiny_model, prompts[row], LIMIT) for row in pushed) > len(pushed) // 2


def test_steered_answers_are_those_of_the_engine(engine, prompts, fitted):
    """Token for token what `Batch.decode` says to the same push over the whole batch."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    unsteered = answer_all(batches, LIMIT, closed, "test")
    answers, decisions = steered(batches, reading, fitted.adapter, unsteered)
    for batch in batches:
        delta, _ = fitted.adapter.push(torch.from_numpy(reading.states[batch.rows, fitted.adapter.layer]))
        assert [answers[row] for row in batch.rows] == batch.decode(LIMIT, closed, push=(fitted.adapter.layer, delta))
    assert any(decision.gate == 0 for decision in decisions)


def test_adapters_that_answer_together_say_what_each_says_alone(engine, prompts, fitted):
    """Also where their layers, and the rows that they leave alone, differ."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    unsteered = answer_all(batches, LIMIT, closed, "test")
    adapters = {"one": fitted.adapter, "two": fit_like(fitted, layer=0, dose=0.9, tau=0.5)}
    both = answer_steered(batches, reading, adapters, unsteered, LIMIT, closed, "test")
    assert both == {run: steered(batches, reading, each, unsteered) for run, each in adapters.items()}
    assert both["one"][0] != both["two"][0]
    assert {decision.gate for decision in both["one"][1]} > {decision.gate for decision in both["two"][1]}


def test_rows_with_gate_0_are_answered_where_no_answer_is_given(engine, prompts, fitted):
    """And no other row is answered twice."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    unsteered = answer_all(batches, LIMIT, closed, "test")
    expected = steered(batches, reading, fitted.adapter, unsteered)
    assert steered(batches, reading, fitted.adapter, None) == expected
    assert any(decision.gate == 0 for decision in expected[1])


def test_looking_ahead(engine, prompts, fitted):
    """Rows where the model does what the gate wants keep their answer; the others are answered as without it."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    unsteered = [[-row] for row in range(len(prompts))]
    always, decisions = steered(batches, reading, fitted.adapter, unsteered)
    gates = np.array([decision.gate for decision in decisions])
    looking = fit_like(fitted, look_ahead=True, trigger_id=9)
    for called in (np.ones(len(gates), bool), np.zeros(len(gates), bool), gates == 1):
        seen = replace(reading, called=called)
        agreed = gates == np.where(called, 1, -1)
        assert 0 < agreed.sum() < len(gates)
        answers, made = steered(batches, seen, looking, unsteered)
        assert answers == [unsteered[row] if agreed[row] else always[row] for row in range(len(prompts))]
        assert [decision.opens for decision in made] == called.tolist()


def test_only_pushed_rows_are_generated_again(engine, prompts, fitted, monkeypatch):
    """Nobody pays for a row that keeps its answer; a batch without a push is not touched."""
    reading, batches = read_prompts(engine, prompts, 9, "test")
    adapter = fit_like(fitted, tau=1 - 1e-12)
    add, sizes = Decoder.add, []
    monkeypatch.setattr(Decoder, "add", lambda self, rows, push: sizes.append(len(rows.names)) or add(self, rows, push))
    unsteered = [[5]] * len(prompts)
    answers, decisions = steered(batches, reading, adapter, unsteered)
    assert (answers, sizes, {decision.gate for decision in decisions}) == (unsteered, [], {0})
    _, decisions = steered(batches, reading, fitted.adapter, unsteered)
    assert sum(sizes) == sum(decision.gate != 0 for decision in decisions) < len(prompts)


def fit_like(fitted, **changes):
    """The same adapter with other settings."""
    return type(fitted.adapter)(fitted.adapter.config | changes, fitted.adapter.arrays)
