"""Dose curves: what the push does as it grows, at which layer, along which direction.

All of it on VALID and by the model's own next token after the push (replay); calls are generated on a sample to see
whether they are any good. It shows, it does not choose: `tuning` does.
"""

from collections.abc import Callable

import numpy as np

from asa.data.scores import confusion, ratio
from asa.engine.answering import answer_chosen
from asa.engine.batch import Batch
from asa.evaluation.metrics import mean_or_none
from asa.evaluation.validity import call_validity
from asa.method.directions import DIRECTIONS, mixed
from asa.method.probes import Readers
from asa.method.steering import gates, push_along, replay_triggers
from asa.method.tuning import DOSES
from asa.models.answers import AnswerRules
from asa.study.damage import next_token_kl
from asa.support.processes import progress
from asa.tools.definitions import Tool

SAMPLED_CALLS = 40  # requests that need a tool, whose calls are generated at every dose


def drawn_layers(layers: list[int], chosen: int) -> list[int]:
    """Up to three of the layers where steering was tried, the chosen one among them."""
    return sorted({layers[0], layers[len(layers) // 2], layers[-1], chosen})[-3:]


def _gated(
    readers: Readers, directions: dict[str, np.ndarray], here: np.ndarray, tau: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gate `[N]` for states `[N, H]`, and the push at dose 1 `[N, H]`, beta 0."""
    gate, along = gates(readers.p_tool(here), tau), mixed(directions, 0.0, readers.domains)[readers.route(here)]
    return gate, push_along(readers, 1.0, gate, along)


def fitting_calls(
    batches: list[Batch], rules: AnswerRules, tools: dict[str, Tool], rows: np.ndarray, layer: int, push: np.ndarray
) -> float | None:
    """Share of the answers of `rows` `[N]` (bool) that are calls whose arguments fit, after `push` `[N, H]`.

    They are generated. None without rows.
    """
    answered = answer_chosen(batches, rows, rules.limit, rules.ended, "calls", push=(layer, push))
    texts = [rules.text(ids) for ids in answered.values()]
    return ratio(call_validity(texts, tools, rules.markers)["arguments"]["hits"], len(texts))


def dose_curves(
    batches: list[Batch],
    states: np.ndarray,
    labels: np.ndarray,
    readers: dict[int, Readers],
    directions: dict[tuple[str, int], dict[str, np.ndarray]],
    tau: float,
    trigger_id: int,
    fitting: Callable[[np.ndarray, int, np.ndarray], float | None],
) -> list[dict]:
    """F1, FPR and damage against dose.

    Args:
        batches: VALID's batches.
        states: `[N, layers, H]`.
        labels: `[N]`.
        readers: Layer -> readers; these layers are drawn.
        directions: (direction, layer) -> domain -> unit vector.
        tau: Confidence the gate asks for.
        trigger_id: First token of the trigger.
        fitting: (rows `[N]` bool, layer, push `[N, H]`) -> share of these rows' answers that are calls whose arguments
            fit their tool's schema, None without rows; it generates.

    Returns:
        A point a (direction, layer, dose): `f1`, `fpr`, `kl` (nats, mean over requests that need no tool and are
        pushed; None where there are none) and `arguments`.
    """
    needed = np.asarray(labels) == 1
    points = []
    for layer in progress(list(readers), desc="dose curves", unit="layer"):
        for kind in DIRECTIONS:
            gate, push = _gated(readers[layer], directions[kind, layer], states[:, layer], tau)
            raised = np.flatnonzero(needed & (gate == 1))
            sample = np.isin(
                np.arange(len(gate)),
                raised[np.linspace(0, len(raised) - 1, min(SAMPLED_CALLS, len(raised))).astype(int)],
            )
            for dose in DOSES:
                called = replay_triggers(batches, states, layer, dose * push, trigger_id)
                scores = confusion(called, labels)
                kl = next_token_kl(batches, states, layer, dose * push)[~needed & (gate != 0)]
                point = {"direction": kind, "layer": layer, "dose": dose, "f1": scores["f1"], "fpr": scores["fpr"]}
                point |= {"kl": mean_or_none(kl), "arguments": fitting(sample, layer, dose * push)}
                points.append(point)
    return points


def layer_curve(
    batches: list[Batch],
    states: np.ndarray,
    labels: np.ndarray,
    readers: dict[int, Readers],
    directions: dict[tuple[str, int], dict[str, np.ndarray]],
    tau: float,
    trigger_id: int,
) -> list[dict]:
    """F1 at its best dose, layer by layer; arguments as in `dose_curves`.

    Returns:
        A layer each: `layer`, and direction -> best F1, None where none of its doses has one.
    """
    found = []
    for layer in progress(list(readers), desc="layers", unit="layer"):
        best: dict = {"layer": layer}
        for kind in DIRECTIONS:
            _, push = _gated(readers[layer], directions[kind, layer], states[:, layer], tau)
            calls = (replay_triggers(batches, states, layer, dose * push, trigger_id) for dose in DOSES)
            reached = [confusion(called, labels)["f1"] for called in calls]
            best[kind] = max((f1 for f1 in reached if f1 is not None), default=None)
        found.append(best)
    return found
