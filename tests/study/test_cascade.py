"""A cascade against the same push in a plain forward pass of everything so far, without a cache."""

import numpy as np
import pytest
import torch
from conftest import hooks_of
from helpers import closed

import asa.engine.engine
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.models.fitting import shared_prefix
from asa.models.layout import block_output, decoder_layers, hooked
from asa.study.cascade import Cascade, cascade_answers, cascade_triggers

LIMIT, FIRST, BLOCKS, LENGTH = 6, 1, 2, 0.4
LEFT_ALONE = (2, 5, 11)


@pytest.fixture
def batches(tiny_model, prompts, monkeypatch):
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 5)
    return list(Engine(tiny_model, shared_prefix(prompts)).batches(prompts, "test"))


@pytest.fixture(scope="module")
def cascade(tiny_model, prompts) -> Cascade:
    along = np.random.default_rng(0).standard_normal((len(prompts), BLOCKS, tiny_model.config.hidden_size))
    along /= np.linalg.norm(along, axis=2, keepdims=True)
    along[list(LEFT_ALONE)] = 0
    return Cascade(FIRST, along.astype(np.float32), LENGTH)


def plain_logits(model, ids: list[int], start: int, along: np.ndarray) -> torch.Tensor:
    """Next-token logits where every token from `start` on is pushed."""

    def pushing(vector):
        def push(_module, _args, output):
            hidden = block_output(output)
            hidden[:, start:] += LENGTH * hidden[:, start:].norm(dim=-1, keepdim=True) * torch.from_numpy(vector)
            return output

        return push

    blocks = decoder_layers(model)
    hooks = [blocks[FIRST + place].register_forward_hook(pushing(vector)) for place, vector in enumerate(along)]
    with hooked(*hooks), torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0, -1]


def plain_answer(model, prompt: list[int], along: np.ndarray) -> list[int]:
    said = []
    while len(said) < LIMIT and not (said and closed(said)):
        said.append(int(plain_logits(model, prompt + said, len(prompt) - 1, along).argmax()))
    return said


def test_answers_are_those_of_the_plain_push_at_every_step(tiny_model, prompts, batches, cascade):
    before = hooks_of(tiny_model)
    said = cascade_answers(batches, cascade, LIMIT, closed, "test")
    assert sorted(said) == [row for row in range(len(prompts)) if row not in LEFT_ALONE]
    plain = {row: plain_answer(tiny_model, prompts[row], cascade.along[row]) for row in said}
    assert said == plain
    none = np.zeros_like(cascade.along[0])
    assert sum(said[row] != plain_answer(tiny_model, prompts[row], none) for row in said) > 5
    assert hooks_of(tiny_model) == before


def test_the_next_token_is_the_answer_s_first(tiny_model, prompts, batches, cascade):
    """For a trigger that some answers begin with and others do not."""
    before = hooks_of(tiny_model)
    reading, _ = read_prompts(batches[0].engine, prompts, 7, "test")
    first = [
        int(plain_logits(tiny_model, ids, len(ids) - 1, cascade.along[row]).argmax()) for row, ids in enumerate(prompts)
    ]
    trigger = first[0]
    called = cascade_triggers(batches, reading.states, cascade, trigger)
    assert called.tolist() == [token == trigger for token in first]
    assert hooks_of(tiny_model) == before
