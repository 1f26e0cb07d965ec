"""Running the model over splits: states and next tokens, then answers.

The first half reads: last-token states at every layer, whether the next token opens a call, and its log-odds. The
second half speaks: greedy answers, unsteered and steered, from the same prefilled batches, so that a push of zero
changes nothing. Of several processes each works on its own batches, and all get the whole result. What is read and said
here is judged elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from asa.adapter import ASAAdapter, Decision
from asa.engine import Batch, Engine
from asa.processes import gathered, progress


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
    decided, said = [], []
    for batch in progress(batches, desc=what, unit="batch"):
        hidden = torch.from_numpy(states[batch.rows, adapter.layer]).to(batch.own_mask.device)
        delta, decisions = adapter.push(hidden)
        decided += zip(batch.rows, decisions, strict=True)
        pushed = [place for place, decision in enumerate(decisions) if decision.gate]
        if pushed:
            part = batch.select(pushed)
            said += zip(part.rows, part.decode(limit, closed, push=(adapter.layer, delta[pushed])), strict=True)
    answers = dict(enumerate(unsteered)) | dict(gathered(said))
    decisions = dict(gathered(decided))
    return list(answers.values()), [decisions[row] for row in answers]
