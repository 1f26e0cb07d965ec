"""Answering: greedy answers of the model, unsteered and steered.

Both come from the same prefilled batches, so that a push of zero changes nothing. Of several processes each works on
its own batches, and all get the whole result. What is said here is judged elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from asa.adapter import ASAAdapter, Decision
from asa.engine.batch import Batch
from asa.support.processes import gathered, progress


def answer_all(batches: list[Batch], limit: int, closed: Callable[[list[int]], bool], what: str) -> list[list[int]]:
    """Unsteered greedy answers, as token ids, rows in the order of the prompts."""
    said = []
    for batch in progress(batches, desc=what, unit="batch"):
        said += zip(batch.rows, batch.decode(limit, closed), strict=True)
    return [answer for _, answer in sorted(gathered(said))]


def chosen_parts(batches: Iterable[Batch], chosen: np.ndarray) -> Iterator[Batch]:
    """The rows of every batch for which `chosen` `[N]` (bool) holds, as batches of their own; none is empty."""
    for batch in batches:
        places = [place for place, row in enumerate(batch.rows) if chosen[row]]
        if places:
            yield batch.select(places)


def answer_chosen(
    batches: list[Batch],
    chosen: np.ndarray,
    limit: int,
    closed: Callable[[list[int]], bool],
    what: str,
    push: tuple[int, np.ndarray] | None = None,
    opening: Sequence[int] = (),
    avoid: int | None = None,
) -> dict[int, list[int]]:
    """Greedy answers of some rows only, under an intervention.

    Args:
        batches: The requests' batches.
        chosen: `[N]` bool, the rows to answer.
        limit: Maximum new tokens per row.
        closed: As in `Batch.decode`.
        what: Name of the progress bar.
        push: (layer, `[N, H]`).
        opening: As in `Batch.decode`.
        avoid: As in `Batch.decode`.

    Returns:
        Row -> answer.
    """
    said = []
    for part in chosen_parts(progress(batches, desc=what, unit="batch"), chosen):
        delta = None if push is None else (push[0], torch.from_numpy(push[1][part.rows]).to(part.own_mask.device))
        said += zip(part.rows, part.decode(limit, closed, delta, opening, avoid), strict=True)
    return dict(gathered(said))


def answer_steered(
    batches: list[Batch],
    states: np.ndarray,
    adapter: ASAAdapter,
    unsteered: list[list[int]],
    limit: int,
    closed: Callable[[list[int]], bool],
    what: str,
) -> tuple[list[list[int]], list[Decision]]:
    """Steered greedy answers and the decisions behind them; rows with gate 0 keep their unsteered answer.

    Args:
        batches: The requests' batches.
        states: `[N, layers, H]` of the unsteered model.
        adapter: Decides and pushes.
        unsteered: `[N]` unsteered answers.
        limit: Maximum new tokens per row.
        closed: As in `Batch.decode`.
        what: Name of the progress bar.
    """
    delta, decisions = adapter.push(torch.from_numpy(states[:, adapter.layer]))
    gated = np.array([decision.gate != 0 for decision in decisions])
    answers = answer_chosen(batches, gated, limit, closed, what, push=(adapter.layer, delta.numpy()))
    return list((dict(enumerate(unsteered)) | answers).values()), decisions
