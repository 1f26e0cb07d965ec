"""Running the model over splits: states and next tokens, then answers.

The first half reads: last-token states at every layer, whether the next token opens a call, and its log-odds. The
second half speaks: greedy answers, unsteered and steered, from the same prefilled batches, so that a push of zero
changes nothing. Of several processes each works on its own batches, and all get the whole result. What is read and said
here is judged elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from asa.adapter import ASAAdapter, Decision
from asa.engine.engine import Batch, Engine
from asa.support.processes import gathered, progress


@dataclass
class Reading:
    """What the unsteered model holds at the last prompt token of N requests.

    Attributes:
        states: `[N, layers, H]` fp32.
        called: `[N]` bool, the next token is the trigger's first.
        log_odds: `[N]` fp32, log-odds of that token.
    """

    states: np.ndarray
    called: np.ndarray
    log_odds: np.ndarray


def read_batch(batch: Batch, trigger_id: int) -> Reading:
    """One batch's reading, rows in the batch's order."""
    last = batch.last_token()
    log_p = last.logits.float().log_softmax(-1)[:, trigger_id]
    return Reading(
        states=last.states.float().cpu().numpy(),
        called=(last.logits.argmax(-1) == trigger_id).cpu().numpy(),
        log_odds=(log_p - torch.log1p(-log_p.exp().clamp(max=1 - 1e-7))).cpu().numpy(),
    )


def read_prompts(engine: Engine, prompts: list[list[int]], trigger_id: int, what: str) -> tuple[Reading, list[Batch]]:
    """Prefill prompts and read their last tokens.

    Returns:
        The reading, rows in the order of `prompts`, and the batches, ready for `Batch.replay` and `Batch.decode`.
    """
    batches = list(engine.batches(prompts, what))
    return _joined([(batch.rows, read_batch(batch, trigger_id)) for batch in batches]), batches


def read_states(engine: Engine, prompts: list[list[int]], trigger_id: int, what: str) -> Reading:
    """As `read_prompts`, but each batch is let go at once: for splits that are only read."""
    return _joined([(batch.rows, read_batch(batch, trigger_id)) for batch in engine.batches(prompts, what)])


def _joined(parts: list[tuple[list[int], Reading]]) -> Reading:
    parts = gathered(parts)
    order = np.argsort([row for rows, _ in parts for row in rows])
    columns = ("states", "called", "log_odds")
    return Reading(*(np.concatenate([getattr(part, name) for _, part in parts])[order] for name in columns))


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
        limit: Most new tokens a row.
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
        limit: Most new tokens a row.
        closed: As in `Batch.decode`.
        what: Name of the progress bar.
    """
    delta, decisions = adapter.push(torch.from_numpy(states[:, adapter.layer]))
    gated = np.array([decision.gate != 0 for decision in decisions])
    answers = answer_chosen(batches, gated, limit, closed, what, push=(adapter.layer, delta.numpy()))
    return list((dict(enumerate(unsteered)) | answers).values()), decisions
