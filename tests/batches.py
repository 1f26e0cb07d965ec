"""What batches of the engine give, in the order of the prompts, and what the plain way gives in their place."""

import contextlib

import torch
from conftest import last_token, one_push
from helpers import Answer, assert_near, exact, full_forwards
from truth import allowed_error

from asa.engine.batch import Batch, LastToken
from asa.engine.engine import Engine
from asa.models.layout import decoder_layers

LIMIT = 12


def closed(answer: list[int]) -> bool:
    """Every seventh token ends an answer, so that the rows end at different steps."""
    return answer[-1] % 7 == 0


def generated(model, prompt: list[int], push: tuple[int, torch.Tensor] | None = None) -> Answer:
    """The model's own greedy answer to one prompt, with the same ends; `push` (layer, `[H]`) by a one-shot hook."""
    ids = torch.tensor([prompt])
    ends = list(range(0, model.config.vocab_size, 7))
    with one_push(model, *push) if push else contextlib.nullcontext([len(prompt)]) as lengths:
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LIMIT, eos_token_id=ends
        )
    assert lengths[0] == len(prompt)
    return Answer(out[0, len(prompt) :].tolist(), model, prompt, push)


def in_order(batches: list[Batch], values: list) -> list:
    """Rows of the batches' values, in the order of the prompts; every prompt once."""
    rows = [row for batch in batches for row in batch.rows]
    assert sorted(rows) == list(range(len(rows)))
    flat = [value for part in values for value in part]
    return [flat[rows.index(row)] for row in range(len(rows))]


def decoded(batches: list[Batch], push: tuple[int, torch.Tensor] | None = None) -> list[list[int]]:
    """Answers in the order of the prompts; `push` holds a row for every prompt."""
    pushes = [push and (push[0], push[1][batch.rows]) for batch in batches]
    parts = [batch.decode(LIMIT, closed, push=part) for batch, part in zip(batches, pushes, strict=True)]
    return in_order(batches, parts)


def random_push(states: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A random vector for every row of states `[N, H]`, as long as its state."""
    push = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed))
    return push / push.norm(dim=1, keepdim=True) * states.norm(dim=1, keepdim=True)


def truly_pushed(model, prompts: list[list[int]], layer: int, push: torch.Tensor) -> torch.Tensor:
    """True logits of every prompt, by a full forward with a hook that adds the row's push."""
    logits = []
    for prompt, delta in zip(prompts, push, strict=True):
        with exact(model) as twin, one_push(twin, layer, delta):
            logits.append(last_token(twin, prompt)[1])
    return torch.stack(logits)


def truth_of(model, prompts: list[list[int]]) -> tuple[LastToken, float]:
    """True states and logits, and how far from them one may be."""
    plain = full_forwards(model, prompts)
    with exact(model) as twin:
        true = full_forwards(twin, prompts)
    return true, allowed_error((plain.states, true.states), (plain.logits, true.logits))


def check_against_plain(model, prompts: list[list[int]], prefix: list[int], truth: tuple[LastToken, float]) -> None:
    """States, logits and replay at every layer against the truth, decoding against the plain way."""
    true, allowed = truth
    batches = list(Engine(model, prefix).batches(prompts, "test"))
    read = [batch.last_token() for batch in batches]
    assert_near(torch.stack(in_order(batches, [part.states for part in read])), true.states, allowed)
    assert_near(torch.stack(in_order(batches, [part.logits for part in read])), true.logits, allowed)
    for layer in range(len(decoder_layers(model))):
        push = random_push(true.states[:, layer].float(), seed=layer)
        pushed = truly_pushed(model, prompts, layer, push)
        assert ((pushed - true.logits).abs().amax(1) > 0.1).all()  # the push matters, or the next line proves little
        replayed = [
            batch.replay(layer, part.states[:, layer] + push[batch.rows])
            for batch, part in zip(batches, read, strict=True)
        ]
        assert_near(torch.stack(in_order(batches, replayed)), pushed, allowed)
    assert decoded(batches) == [generated(model, prompt) for prompt in prompts]
