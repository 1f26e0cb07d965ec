"""Fitting: prompts that leave the model room for an answer, and the tokens that they all begin with.

A request that is too long is refused by its source before any memory is taken. The common part is found on tokens, not
on text, because a tokenizer may merge across the seam.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asa.data.requests import Request, RequestsError
from asa.models.known_prompts import common_start
from asa.models.prompts import Prompter, PromptError, Turn

if TYPE_CHECKING:
    from asa.models.layout import CausalModel


def fitting_prompts(
    prompter: Prompter, model: "CausalModel", requests: Sequence[Request], history: Sequence[Turn] = ()
) -> list[list[int]]:
    """The prompts of `requests` behind `history`, as token ids, each with room for its answer in what the model takes.

    Raises:
        PromptError: System text, tools and examples leave no room for any request, or a prompt is unusable.
        RequestsError: A request is too long; a model would need much memory for it, and answer it badly.
    """
    takes = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    model_id, answer = prompter.profile.model_id, prompter.profile.max_new_tokens
    alone = len(prompter.ids("a"))
    if alone + answer > takes:
        raise PromptError(
            f"{model_id} takes {takes} tokens, and a prompt without its request has {alone} and an answer up to "
            f"{answer}: give fewer or shorter tools and examples."
        )
    prompts = []
    for request in requests:
        ids = prompter.ids(request.text, history)
        if len(ids) + answer > takes:
            raise RequestsError(
                f"{request.source}: {model_id} takes {takes} tokens, and this request's prompt has {len(ids)} and an "
                f"answer up to {answer}: shorten the request, or leave it out."
            )
        prompts.append(ids)
    return prompts


def shared_prefix(prompts: list[list[int]]) -> list[int]:
    """The longest common prefix that leaves every prompt at least two tokens.

    >>> shared_prefix([[1, 2, 3, 4], [1, 2, 3, 9, 4]])
    [1, 2]
    """
    return common_start(prompts)[: min(map(len, prompts)) - 2]
