"""Steering: the gate, the push, and what the model says after it.

The only place where a gate and a push are written down for many requests at once; the adapter does the same row by row.
Formulas: arXiv 2602.04935 v1/v2, section 3.
"""

from collections.abc import Callable

import numpy as np
import torch

from asa.engine.batch import Batch
from asa.method.probes import Readers
from asa.support.processes import gathered


def replay_triggers(
    batches: list[Batch], states: np.ndarray, layer: int, push: np.ndarray, trigger_id: int
) -> np.ndarray:
    """Whether the next token opens a call after adding `push` to block `layer`'s output at the last prompt token.

    Args:
        batches: The requests' batches; with those of the other processes they cover rows 0..N-1.
        states: `[N, layers, H]`, as `Batch.last_token` gave them.
        layer: The pushed block.
        push: `[N, H]`.
        trigger_id: First token of the trigger.

    Returns:
        `[N]` bool.
    """

    def replayed(batch: Batch) -> torch.Tensor:
        hidden = torch.from_numpy(states[batch.rows, layer] + push[batch.rows]).to(batch.own_mask.device)
        return batch.replay(layer, hidden)

    return next_triggers(batches, len(states), replayed, trigger_id)


def next_triggers(
    batches: list[Batch], count: int, logits: Callable[[Batch], torch.Tensor], trigger_id: int
) -> np.ndarray:
    """`[count]` bool, whether the likeliest next token opens a call, by each batch's `logits` `[N, vocabulary]`."""
    parts = [(batch.rows, (logits(batch).argmax(-1) == trigger_id).cpu().numpy()) for batch in batches]
    called = np.zeros(count, bool)
    for rows, here in gathered(parts):
        called[rows] = here
    return called


# [gate_and_push]
def gates(p_tool: np.ndarray, tau: float) -> np.ndarray:
    """Gate `[N]`: +1 where p >= tau, -1 where p <= 1 - tau, else 0.

    >>> gates(np.array([0.9, 0.5, 0.2]), 0.8).tolist()
    [1, 0, -1]
    """
    sure = np.maximum(p_tool, 1 - p_tool) >= tau
    return np.where(sure, np.where(p_tool >= 0.5, 1, -1), 0)


def push_along(readers: Readers, dose: float, gate: np.ndarray, along: np.ndarray) -> np.ndarray:
    """What is added to the hidden state: g * alpha * v, `[N, H]` fp32, for gates `[N]` and unit vectors `[N, H]`.

    alpha is `dose` times the mean length of a state at the readers' layer.
    """
    return (dose * readers.mean_norm * gate)[:, None].astype(np.float32) * along


# [/gate_and_push]


def where_it_differs(push: np.ndarray, gate: np.ndarray, called: np.ndarray) -> np.ndarray:
    """A push `[N, H]`, looking ahead: none where the unsteered model, which `called` `[N]` or not, does what is wanted.

    >>> where_it_differs(np.ones((3, 1)), np.array([1, 1, -1]), np.array([True, False, False])).ravel().tolist()
    [0.0, 1.0, 0.0]
    """
    return np.where((gate == np.where(called, 1, -1))[:, None], 0, push)
