"""States: what the unsteered model holds at the last prompt token.

The residual stream at every layer, whether the next token opens a call, and its log-odds. Of several processes each
works on its own batches, and all get the whole result.
"""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch

from asa.data.requests import Request
from asa.data.splits import ReadSplit, Split
from asa.engine.batch import Batch
from asa.engine.engine import Engine
from asa.models.fitting import fitting_prompts, shared_prefix
from asa.models.layout import CausalModel
from asa.models.prompts import Prompter
from asa.support.checkpoints import Checkpoints
from asa.support.files import key_of
from asa.support.processes import gathered


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


def read_requests(model: CausalModel, prompter: Prompter, requests: list[Request], what: str) -> ReadSplit:
    """Requests that stand in no split, read behind what their prompts share.

    Raises:
        RequestsError: One is too long for the model.
    """
    prompts = fitting_prompts(prompter, model, requests)
    reading = read_states(Engine(model, shared_prefix(prompts)), prompts, prompter.trigger_id, what)
    return ReadSplit(requests, prompts, *vars(reading).values())


def _joined(parts: list[tuple[list[int], Reading]]) -> Reading:
    parts = gathered(parts)
    order = np.argsort([row for rows, _ in parts for row in rows])
    columns = ("states", "called", "log_odds")
    return Reading(*(np.concatenate([getattr(part, name) for _, part in parts])[order] for name in columns))


class Prefilled:
    """Prompts that are prefilled when they are first needed, and once.

    Args:
        engine: Prefills them.
        prompts: Token ids.
        trigger_id: First token of the trigger.
        what: Name of the progress bar.
    """

    def __init__(self, engine: Engine, prompts: list[list[int]], trigger_id: int, what: str):
        self._given = (engine, prompts, trigger_id, what)

    @cached_property
    def _both(self) -> tuple[Reading, list[Batch]]:
        return read_prompts(*self._given)

    @property
    def reading(self) -> Reading:
        """What the unsteered model holds at the last prompt tokens."""
        return self._both[0]

    @property
    def batches(self) -> list[Batch]:
        """Ready for `Batch.replay` and `Batch.decode`."""
        return self._both[1]


def read_splits(
    engine: Engine,
    splits: dict[str, Split],
    valid: Prefilled,
    trigger_id: int,
    checkpoints: Checkpoints,
    key: str,
) -> dict[str, ReadSplit]:
    """All splits but TEST with states, calls and log-odds, a checkpoint each.

    Args:
        engine: Reads.
        splits: By name.
        valid: VALID's prompts, which tuning pushes later: their batches are kept.
        trigger_id: First token of the trigger.
        checkpoints: Where readings are kept.
        key: What they depend on, besides the prompts.
    """

    def columns(name: str) -> dict[str, np.ndarray]:
        if name == "valid":
            return vars(valid.reading)
        return vars(read_states(engine, splits[name].prompts, trigger_id, f"{name.upper()} states"))

    found: dict[str, ReadSplit] = {}
    for name, split in splits.items():
        if name == "test":
            continue
        if len(split):
            made_from = key_of(key, name, split.prompts)
            kept = checkpoints.stage(f"states-{name}", made_from, partial(columns, name))
        else:  # as much as any other split holds of no request
            kept = {column: getattr(found["cal"], column)[:0] for column in ("states", "called", "log_odds")}
        found[name] = ReadSplit(split.requests, split.prompts, **kept)
    return found
