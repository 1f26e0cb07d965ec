"""How near two ways of computing one thing must come, measured on the machine that runs the test.

Rounding differs from one processor to the next, so no bound is written down. Truth is a plain full forward of the same
weights in float64, and what is tested may be no further from it than a few times what the plain way is. Greedy
answers must be equal token for token, up to a step at which the true scores of the two tokens are tied within the
plain way's own error.
"""

import contextlib
import copy
from collections.abc import Iterator
from functools import cache

import torch
from conftest import one_push
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

TIMES = 5  # in 16 bit the shared-prefix attention rounds its scores, the plain one does not: up to 2.7 times its error
FLOOR = 1  # eps: where the plain way happens to round next to nothing


class NothingInFloat32(TorchFunctionMode):
    """Runs in float64 what a model's code asks for in float32 by name: norms, rotary angles, the softmax."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double()
        args = [torch.float64 if arg is torch.float32 else arg for arg in args]
        kwargs = {name: torch.float64 if arg is torch.float32 else arg for name, arg in (kwargs or {}).items()}
        return func(*args, **kwargs)


@cache
def doubled(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of `model` with every weight in float64; kept, as the tests share their models."""
    return copy.deepcopy(model).double()


@contextlib.contextmanager
def exact(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """A copy of `model` with the same weights, which computes everything in float64 inside the `with`."""
    with NothingInFloat32():
        yield doubled(model)


def error(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Distance of vectors `[..., H]` from the true ones, relative to these `[...]`."""
    return (found.double() - true).norm(dim=-1) / true.norm(dim=-1)


def allowed_error(plain: torch.Tensor, true: torch.Tensor) -> float:
    """The most that `error` may be: a few times the largest of the plain way's vectors `[..., H]`."""
    return TIMES * max(error(plain, true).max().item(), FLOOR * torch.finfo(plain.dtype).eps)


def assert_as_exact(found: torch.Tensor, plain: torch.Tensor, true: torch.Tensor) -> None:
    """No vector `[..., H]` is further from the true one than a few times what the plain way's furthest is."""
    assert found.shape == plain.shape == true.shape
    assert error(found, true).max() <= allowed_error(plain, true)


def full_logits(model, prompt: list[int], answer: list[int], push: tuple[int, torch.Tensor] | None) -> torch.Tensor:
    """Logits of all tokens of prompt and answer `[T, vocabulary]`, by one full forward.

    `push` is (layer, `[H]`), added to that block's output at the last prompt token.
    """
    pushing = one_push(model, *push, column=len(prompt) - 1) if push else contextlib.nullcontext()
    with pushing, torch.no_grad():
        return model(input_ids=torch.tensor([prompt + answer]), use_cache=False).logits[0]


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
        self.asked = list(prompt)
        self.model, self.push = model, push

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
        plain = full_logits(self.model, self.asked, self[:step], self.push)
        with exact(self.model) as twin:
            true = full_logits(twin, self.asked, self[:step], self.push)
        unsure = allowed_error(plain, true) * true[-1].square().mean().sqrt()
        return bool((true[-1, self[step]] - true[-1, token]).abs() <= 2 * unsure)
