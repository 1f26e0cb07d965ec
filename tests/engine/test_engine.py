"""The engine against plain full forwards and plain `generate`, prompt by prompt, on a Llama and on LFM2s.

Wherever the engine splits, buckets, joins, replays or compacts, the model must say what it says to the prompt alone;
and neither the model nor its hooks may have changed afterwards.
"""

import contextlib

import pytest
import torch
from batches import check_against_plain, closed, decoded, generated, in_order, truth_of
from conftest import HIDDEN, PREFIX, hooks_of, make_lfm2, make_llama
from helpers import assert_near

import asa.engine.engine
from asa.engine.batch import LastToken
from asa.engine.engine import Engine
from asa.models.fitting import shared_prefix
from asa.models.layout import decoder_layers, final_norm


@pytest.fixture(scope="module")
def truth(tiny_model, prompts) -> tuple[LastToken, float]:
    return truth_of(tiny_model, prompts)


def test_equals_the_plain_way(tiny_model, prompts, truth):
    """States, logits, replay at every layer and greedy answers are those of the prompt alone."""
    check_against_plain(tiny_model, prompts, shared_prefix(prompts), truth)


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 2, 3, PREFIX - 1])
def test_any_prefix(tiny_model, prompts, truth, length):
    """A prefix shorter than a convolution's reach, and one that ends before the prompts part."""
    check_against_plain(tiny_model, prompts, prompts[0][:length], truth)


@pytest.mark.slow
@pytest.mark.parametrize(
    "layers",
    ["conv attention", "attention conv", "conv conv attention conv conv attention attention conv"],
)
def test_any_lfm2_pattern(prompts, layers):
    """Other orders of LFM2's blocks; the six-layer one is in every other test."""
    kinds = tuple({"conv": "conv", "attention": "full_attention"}[kind] for kind in layers.split())
    model = make_lfm2(kinds, seed=3)
    assert model.dtype == torch.float32
    check_against_plain(model, prompts, shared_prefix(prompts), truth_of(model, prompts))


def failing(*_args):
    raise RuntimeError("as asked")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_given_back_as_it_was(prompts, attention):
    """Own attention and own hooks only, after every use and after every failure."""
    zeros, wrong = torch.zeros(len(prompts), HIDDEN), torch.zeros(len(prompts), HIDDEN + 1)
    for model in (make_llama(), make_lfm2()):
        model.set_attn_implementation(attention)
        decoder_layers(model)[1].register_forward_hook(lambda *_: None)  # the caller's, to stay
        before = hooks_of(model)
        engine = Engine(model, shared_prefix(prompts))
        assert (model.config._attn_implementation, hooks_of(model)) == (attention, before)
        (batch,) = engine.batches(prompts, "test")
        norm = final_norm(model)
        for use, fails in (
            (lambda: None, False),
            (batch.last_token, False),
            (lambda batch=batch: batch.replay(0, zeros), False),
            (lambda batch=batch: batch.decode(3, closed, push=(0, zeros)), False),
            (lambda batch=batch: batch.replay(0, wrong), True),
            (lambda batch=batch: batch.decode(3, closed, push=(0, wrong)), True),
            (lambda batch=batch: batch.decode(3, closed, push=(99, zeros)), True),
            (lambda batch=batch: batch.decode(3, failing, push=(0, zeros)), True),
        ):
            if fails:
                with pytest.raises((RuntimeError, IndexError)):
                    use()
            else:
                use()
            assert (model.config._attn_implementation, hooks_of(model)) == (attention, before)
        handle = norm.register_forward_hook(failing)
        before = hooks_of(model)
        for use in (
            batch.last_token,
            lambda batch=batch: batch.decode(3, closed, push=(0, zeros)),
            lambda batch=batch: batch.replay(0, zeros),
            lambda engine=engine: list(engine.batches(prompts, "test")),
            lambda model=model: Engine(model, shared_prefix(prompts)),
        ):
            with pytest.raises(RuntimeError, match="as asked"):
                use()
            assert (model.config._attn_implementation, hooks_of(model)) == (attention, before)
        handle.remove()
        assert batch.decode(3, closed) == next(engine.batches(prompts, "test")).decode(3, closed)


@pytest.mark.parametrize("fault", ["another start", "too short", "the prefix alone"])
def test_prompts_without_the_prefix_are_refused(tiny_model, prompts, fault):
    """With the number of the prompt; a silent answer to another prompt would be worse."""
    prefix = shared_prefix(prompts)
    engine = Engine(tiny_model, prefix)
    bad = {
        "another start": [prefix[0] + 1, *prompts[4][1:]],
        "too short": [*prefix, prompts[4][PREFIX]],
        "the prefix alone": prefix,
    }[fault]
    with pytest.raises(ValueError, match="prompt 2 does not start with the shared prefix of 40 tokens"):
        list(engine.batches([prompts[0], prompts[1], bad, prompts[3]], "test"))


def test_rows_find_back_to_their_prompts(tiny_model, prompts, truth, monkeypatch):
    """However prompts are ordered and batches cut, a row is its prompt's."""
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 5)
    order = [7, 0, 11, 3, 5, 1, 9, 2, 10, 8, 4, 6]
    engine = Engine(tiny_model, shared_prefix(prompts))
    batches = list(engine.batches([prompts[place] for place in order], "test"))
    logits, (true, allowed) = torch.stack(in_order(batches, [batch.last_token().logits for batch in batches])), truth
    assert_near(logits, true.logits[order], allowed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "batch_sizes"),
    [
        ({"BATCH_ROWS": 1}, [1] * 12),
        ({"BATCH_ROWS": 5}, [5, 5, 2]),
        ({"BATCH_TOKENS": 36}, [5, 3, 2, 1, 1]),
        ({"BATCH_TOKENS": 1}, [1] * 12),
        ({"BUCKET_TOKENS": 1}, [12]),
        ({"BUCKET_TOKENS": 9, "BATCH_ROWS": 9}, [9, 3]),
    ],
)
def test_batch_limits_change_no_answer(tiny_model, prompts, truth, monkeypatch, limits, batch_sizes):
    """They hold, and they are about memory only."""
    for name, value in limits.items():
        monkeypatch.setattr(asa.engine.engine, name, value)
    batches = list(Engine(tiny_model, shared_prefix(prompts)).batches(prompts, "test"))
    assert [len(batch.rows) for batch in batches] == batch_sizes
    states = torch.stack(in_order(batches, [batch.last_token().states for batch in batches]))
    assert_near(states, truth[0].states, truth[1])
    assert decoded(batches) == [generated(tiny_model, prompt) for prompt in prompts]


def test_the_bar_counts_prompts(tiny_model, prompts, monkeypatch):
    """Also within one batch, so that the time left can be told."""
    told = []

    @contextlib.contextmanager
    def bar(total, **_options):
        yield type("Bar", (), {"update": staticmethod(told.append)})
        assert sum(told) == total == len(prompts)

    monkeypatch.setattr(asa.engine.engine, "progress", bar)
    monkeypatch.setattr(asa.engine.engine, "BUCKET_TOKENS", 9)
    list(Engine(tiny_model, shared_prefix(prompts)).batches(prompts, "test"))
    assert len(told) > 2
