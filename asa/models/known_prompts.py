"""Known prompts: whether a prompt begins as those that an adapter was fitted on.

On prompts with other tools or another system text the adapter's readers know nothing. An adapter therefore keeps how
many tokens its prompts begin with, and their hash. Prompts that come as embeddings, or whose beginning stands in a
cache already, cannot be looked at and pass.
"""

import hashlib
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch

OTHER_PROMPT = (
    "this prompt does not begin as those that the adapter was fitted on (other tools, system text or examples), so "
    "what it decides there means nothing: make prompts with asa.load(...).prompter.ids(request), or fit an adapter to "
    "these."
)


def prefix_mark(prefix: Sequence[int]) -> dict[str, Any]:
    """What an adapter keeps of the token ids that its prompts begin with.

    >>> prefix_mark([1, 2])["tokens"]
    2
    """
    text = " ".join(map(str, prefix))
    return {"tokens": len(prefix), "sha256": hashlib.sha256(text.encode()).hexdigest()[:16]}


def begin_alike(ids: torch.Tensor, mask: object, mark: object) -> bool:
    """Whether every prompt begins as `mark` says; True where that cannot be seen.

    Args:
        ids: `[B, T]`, padded on the left.
        mask: `[B, T]`, 0 where padding stands; None: there is none.
        mark: Of `prefix_mark`; of an adapter that keeps none, None.
    """
    if not isinstance(mark, dict) or ids.dim() != 2 or ids.is_floating_point():
        return True
    rows = list(ids)
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        if mask.shape != ids.shape:  # the ids only go on behind a cache
            return True
        rows = [row[seen != 0] for row, seen in zip(ids, mask, strict=True)]
    return all(begins_as(row[: mark["tokens"]].tolist(), mark) for row in rows)


def begins_as(prompt: Sequence[int], mark: object) -> bool:
    """Whether a prompt's token ids begin as `mark` says; of an adapter that keeps none, None, all do."""
    return not isinstance(mark, dict) or prefix_mark(prompt[: mark["tokens"]]) == mark


def common_start(rows: list[list[int]]) -> list[int]:
    """The tokens that all rows begin with."""
    equal = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return [column[0] for column in equal]
