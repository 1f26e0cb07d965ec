"""Tuning: layer, direction, dose, beta and tau, chosen on VALID by what steering does to the model.

A setting is scored by the model's own next token after the push, through replay: a call is the trigger's first
token coming out on top. The probe's opinion only decides which way each request is pushed. One replay gives the
outcome for every tau at once, because a request's gate is either its sign or 0, and at 0 the outcome is the
unsteered one. TEST never comes here.

Objective: F1 on VALID with a false-positive rate not above the unsteered one; ties go to the smaller dose.
"""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from asa.engine.engine import Batch
from asa.evaluation.metrics import confusion, worth
from asa.method.directions import mixed
from asa.method.probes import LayerReading, ReadError, Readers
from asa.support.processes import gathered, progress

DOSES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
BETAS = (0.0, 0.5, 1.0)
TAUS = (0.5, 0.6, 0.7, 0.8, 0.9)
MOST_LAYERS = 7
READABLE = 0.03  # AUC below the best that a layer to steer may have


@dataclass(frozen=True)
class Setting:
    """One steering setting and how it did on VALID.

    Attributes:
        direction: `necessity` or `action`.
        layer: Block whose output is pushed.
        dose: alpha over the mean length of a state at `layer`.
        beta: Share of the global direction.
        tau: Confidence the gate asks for.
        f1: Trigger F1 by the next token; None without a call and without need of one.
        fpr: False-positive rate; None where every request needs a tool.
    """

    direction: str
    layer: int
    dose: float
    beta: float
    tau: float
    f1: float | None = 0.0
    fpr: float | None = 1.0


def layers_to_steer(readings: list[LayerReading], by_hand: str = "") -> list[int]:
    """The layers named by hand, or up to `MOST_LAYERS` readable ones, evenly spaced from the first to the last but one.

    The last block is left out: a push behind it only biases the logits. The plateau rule may still name it.

    Args:
        readings: Of every layer.
        by_hand: Layers separated by commas, or "".

    Raises:
        ReadError: A layer named by hand is none of the model's, or is constant.

    >>> layers_to_steer([LayerReading(i, 0.9, 0.5, i == 0) for i in range(10)])
    [1, 2, 3, 4, 5, 6, 8]
    """
    if by_hand:
        layers = layers_by_hand(by_hand, len(readings))
        _refuse_constant(layers, readings)
        return layers
    best = max(reading.auc for reading in readings if not reading.constant)
    readable = [r.layer for r in readings if not r.constant and r.auc >= best - READABLE]
    readable = [layer for layer in readable if layer < len(readings) - 1] or readable
    places = np.linspace(0, len(readable) - 1, min(MOST_LAYERS, len(readable)))
    return [readable[int(place)] for place in places]


def layers_by_hand(text: str, count: int) -> list[int]:
    """The layers in a text, separated by commas, of a model that has `count` of them; none in "".

    Raises:
        ReadError: One is none of the model's.
    """
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if not word.isdecimal() or int(word) >= count:
            raise ReadError(f"layer {word!r}, chosen by hand, is none of this model's: use 0 to {count - 1}.")
    return [int(word) for word in words]


def _refuse_constant(layers: list[int], readings: list[LayerReading]) -> None:
    for layer in layers:
        if readings[layer].constant:
            possible = ", ".join(str(reading.layer) for reading in readings if not reading.constant)
            raise ReadError(
                f"layer {layer}, chosen by hand, holds the same state for every prompt, so nothing can be read there: "
                f"use one of {possible}."
            )


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
    parts = []
    for batch in batches:
        hidden = torch.from_numpy(states[batch.rows, layer] + push[batch.rows]).to(batch.own_mask.device)
        parts.append((batch.rows, (batch.replay(layer, hidden).argmax(-1) == trigger_id).cpu().numpy()))
    called = np.zeros(len(states), bool)
    for rows, here in gathered(parts):
        called[rows] = here
    return called


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


def sweep_settings(
    batches, states, unsteered, labels, readers: dict[int, Readers], directions, trigger_id: int
) -> list[Setting]:
    """Score every setting on VALID.

    Args:
        batches: VALID's batches.
        states: `[N, layers, H]`.
        unsteered: `[N]` bool, whether the unsteered model's next token opens a call.
        labels: `[N]`.
        readers: Layer -> readers.
        directions: (direction, layer) -> domain -> unit vector.
        trigger_id: First token of the trigger.
    """
    settings = []
    grid = [(kind, layer, beta, dose) for kind, layer in directions for beta in BETAS for dose in DOSES]
    routes = {layer: of.route(states[:, layer]) for layer, of in readers.items()}
    chances = {layer: of.p_tool(states[:, layer]) for layer, of in readers.items()}
    for kind, layer, beta, dose in progress(grid, desc="steering settings", unit="setting"):
        along = mixed(directions[kind, layer], beta, readers[layer].domains)[routes[layer]]
        push = push_along(readers[layer], dose, gates(chances[layer], 0.5), along)
        pushed = replay_triggers(batches, states, layer, push, trigger_id)
        for tau in TAUS:
            called = np.where(gates(chances[layer], tau) != 0, pushed, unsteered)
            scores = confusion(called, labels)
            settings.append(Setting(kind, layer, dose, beta, tau, scores["f1"], scores["fpr"]))
    return settings


def best_setting(settings: list[Setting], unsteered_fpr: float | None, direction: str | None = None) -> Setting:
    """The best setting by the objective above; of one `direction` where given.

    Where none keeps the false-positive rate, the one with the lowest rate is returned. A false-positive rate of None
    counts as 0: no request could be called for wrongly. An F1 of None counts as 1, see `evaluation.worth`.
    """
    pool = [s for s in settings if direction in (None, s.direction)]
    allowed = [s for s in pool if (s.fpr or 0.0) <= (unsteered_fpr or 0.0)]
    if not allowed:
        return min(pool, key=lambda s: (s.fpr or 0.0, -worth(s.f1), s.dose))
    return max(allowed, key=lambda s: (worth(s.f1), -s.dose, -(s.fpr or 0.0)))


def settings_to_json(settings: list[Setting]) -> list[dict]:
    """Settings as plain objects, for a checkpoint."""
    return [asdict(setting) for setting in settings]
