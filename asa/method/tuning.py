"""Tuning: layer, direction, dose, beta and tau, chosen on VALID by what steering does to the model.

A setting is scored by the model's own next token after the push, through replay: a call is the trigger's first
token coming out on top. The probes' opinion only decides which way each request is pushed. One replay gives the
outcome for every tau at once, because a request's gate is either its sign or 0, and at 0 the outcome is the
unsteered one. TEST never comes here.

Objective: F1 on VALID with a false-positive rate not above the unsteered one; ties go to the smaller dose.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import numpy as np

from asa.data.scores import confusion, worth
from asa.engine.batch import Batch
from asa.method.directions import mixed
from asa.method.probes import Readers
from asa.method.steering import gates, push_along, replay_triggers
from asa.support.processes import progress

DOSES: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
BETAS: tuple[float, ...] = (0.0, 0.5, 1.0)
TAUS: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
QUICK_DOSES, QUICK_BETAS, QUICK_LAYERS = (0.2, 0.35, 0.75), (0.0, 1.0), 3  # for a first look


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


AnySetting = TypeVar("AnySetting", bound=Setting)


def sweep_settings(
    batches: list[Batch],
    states: np.ndarray,
    unsteered: np.ndarray,
    labels: np.ndarray,
    readers: dict[int, Readers],
    directions: dict[tuple[str, int], dict[str, np.ndarray]],
    trigger_id: int,
    doses: tuple[float, ...] = DOSES,
    betas: tuple[float, ...] = BETAS,
) -> list[Setting]:
    """Score every setting on VALID: all `doses` and `betas` of every direction and layer, and all `TAUS`.

    Args:
        batches: VALID's batches.
        states: `[N, layers, H]`.
        unsteered: `[N]` bool, whether the unsteered model's next token opens a call.
        labels: `[N]`.
        readers: Layer -> readers.
        directions: (direction, layer) -> domain -> unit vector.
        trigger_id: First token of the trigger.
        doses: To try.
        betas: To try.
    """
    chances = {layer: of.p_tool(states[:, layer]) for layer, of in readers.items()}
    settings = []
    for setting, pushed in pushed_calls(batches, states, readers, directions, trigger_id, doses, betas):
        for tau in TAUS:
            called = np.where(gates(chances[setting.layer], tau) != 0, pushed, unsteered)
            scores = confusion(called, labels)
            settings.append(replace(setting, tau=tau, f1=scores["f1"], fpr=scores["fpr"]))
    return settings


def pushed_calls(
    batches: list[Batch],
    states: np.ndarray,
    readers: dict[int, Readers],
    directions: dict[tuple[str, int], dict[str, np.ndarray]],
    trigger_id: int,
    doses: tuple[float, ...] = DOSES,
    betas: tuple[float, ...] = BETAS,
) -> Iterator[tuple[Setting, np.ndarray]]:
    """Every setting at tau 0.5, where all requests are pushed, and `[N]` bool, whether the next token opens a call.

    Arguments as of `sweep_settings`.
    """
    grid = [(kind, layer, beta, dose) for kind, layer in directions for beta in betas for dose in doses]
    routes = {layer: of.route(states[:, layer]) for layer, of in readers.items()}
    chances = {layer: of.p_tool(states[:, layer]) for layer, of in readers.items()}
    for kind, layer, beta, dose in progress(grid, desc="steering settings", unit="setting"):
        along = mixed(directions[kind, layer], beta, readers[layer].domains)[routes[layer]]
        push = push_along(readers[layer], dose, gates(chances[layer], 0.5), along)
        yield Setting(kind, layer, dose, beta, 0.5), replay_triggers(batches, states, layer, push, trigger_id)


# [best_setting]
def best_setting(settings: list[AnySetting], unsteered_fpr: float | None, direction: str | None = None) -> AnySetting:
    """The best setting by the objective above; of one `direction` where given.

    Where none keeps the false-positive rate, the one with the lowest rate is returned. A false-positive rate of None
    counts as 0: no request could be called for wrongly. An F1 of None counts as 1, see `scores.worth`.
    """
    pool = [s for s in settings if direction in (None, s.direction)]
    allowed = [s for s in pool if (s.fpr or 0.0) <= (unsteered_fpr or 0.0)]
    if not allowed:
        return min(pool, key=lambda s: (s.fpr or 0.0, -worth(s.f1), s.dose))
    return max(allowed, key=lambda s: (worth(s.f1), -s.dose, -(s.fpr or 0.0)))


# [/best_setting]


def settings_to_json(settings: Iterable[Setting]) -> list[dict]:
    """Settings as plain objects, for a checkpoint."""
    return [asdict(setting) for setting in settings]
