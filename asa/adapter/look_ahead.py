"""Looking ahead: would the model, left alone, open a call? Asked in the forward call that holds the last prompt token.

Where the gate wants what the model would do anyway, a push changes the answer for nothing. Within `generate` the prompt
is run up to its last token, and that token once more on a copy of the cache, which costs one token per answer and the
cache's size for that moment. Calls whose output holds more than the last token's, or that bring no cache, run the whole
prompt twice instead. What the model would do is its likeliest token: where answers are drawn, it may do otherwise. It
neither decides nor pushes.
"""

import copy
import inspect
from typing import Any

import torch

from asa.adapter.decision import AdapterError
from asa.models.layout import cache_name

# what has a token each, in its last dimension but for embeddings, and what a call of some tokens may have besides
SPLIT = {"input_ids", "inputs_embeds", "position_ids", "token_type_ids"}
WHOLE = {"attention_mask", "past_key_values", "cache", "logits_to_keep", "use_cache", "return_dict"}


def look_ahead(
    model: torch.nn.Module, given: dict[str, Any], width: int, trigger_id: int, may_split: bool
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Ask the model for its next token.

    Args:
        model: Called without hooks that push.
        given: A forward call's arguments; it holds `width` tokens of a row, the last prompt token at their end.
        width: How many.
        trigger_id: Token that opens a call.
        may_split: Whether the call's output may hold the last token alone.

    Returns:
        `[B]` bool, whether the likeliest next token opens a call; and the arguments of the call that is left to do.

    Raises:
        AdapterError: The cache cannot be copied.
    """
    name = cache_name(given)
    cache = given.get(name)
    with torch.no_grad():
        if may_split and cache is not None and width > 1 and _splits(given):
            model(**_columns(given, width, 0, width - 1))
            given = _columns(given, width, width - 1, width)
        trial = given | {"use_cache": cache is not None, "return_dict": True}
        try:
            trial[name] = copy.deepcopy(cache)
        except (RuntimeError, TypeError) as error:  # it holds gradients, or is moved between devices as it is used
            kind = type(cache).__name__
            raise AdapterError(
                f"this {kind} cannot be copied to look ahead: call under torch.no_grad(), or with look_ahead=False."
            ) from error
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            trial["logits_to_keep"] = 1
        opens = model(**trial).logits[:, -1].argmax(-1) == trigger_id
    return opens, given


def _splits(given: dict[str, Any]) -> bool:
    """Whether a call can be run in two: nothing else is asked of it, and its mask is plain."""
    there = {name for name, value in given.items() if value is not None and value is not False}
    mask = given.get("attention_mask")
    return there <= SPLIT | WHOLE and (mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2))


def _columns(given: dict[str, Any], width: int, first: int, end: int) -> dict[str, Any]:
    """The arguments of a call with its tokens `first` to `end` alone, of `width`."""
    part = dict(given)
    for name in SPLIT & set(given):
        value = given[name]
        if value is not None:
            part[name] = value[:, first:end] if name == "inputs_embeds" else value[..., first:end]
    if (mask := given.get("attention_mask")) is not None:
        part["attention_mask"] = mask[:, : mask.shape[1] - width + end]
    return part
