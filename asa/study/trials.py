"""Trials: the whole recipe once, on any split and any labels, tested by replay.

A *trial* fits readers on CAL and TRAIN and directions on CAL, tunes dose, beta and tau on VALID, and tests on TEST. All
of it works on a pool of requests that were prefilled and read once, so a trial takes seconds. A call is the
model's next token after the push; the probe's own decision is scored beside it, never in its place. Given are the
probes' regularisation and a layer for each direction. Why one would change something is not asked here.
"""

from dataclasses import dataclass, replace

import numpy as np

from asa.data.requests import Request
from asa.data.scores import confusion
from asa.data.splits import ReadSplit
from asa.engine.answering import chosen_parts
from asa.engine.batch import Batch
from asa.engine.states import Reading
from asa.evaluation.metrics import gap_closed, mean_and_std
from asa.method.recipe import Recipe
from asa.method.steering import gates, push_along, replay_triggers
from asa.method.tuning import Setting, best_setting, sweep_settings


@dataclass(frozen=True)
class Pool:
    """All requests, prefilled and read once, and what stays as it was chosen.

    Attributes:
        requests: `[N]`.
        labels: `[N]` int, the annotations.
        domains: `[N]` str.
        reading: Of the unsteered model, rows as `requests`.
        batches: Their prefilled batches; with those of the other processes they cover rows 0..N-1.
        names: Domain names.
        layers: Direction -> the block at which it is read and pushed.
        kind: The direction that was chosen; the probe that is scored alone is that of its layer.
        strength: C of the probes.
        own: Freedom of a domain's probe.
        trigger_id: First token of the trigger.
    """

    requests: list[Request]
    labels: np.ndarray
    domains: np.ndarray
    reading: Reading
    batches: list[Batch]
    names: list[str]
    layers: dict[str, int]
    kind: str
    strength: float
    own: float
    trigger_id: int


@dataclass(frozen=True)
class Part:
    """Some requests of a pool, `rows` `[n]`, with reading and batches of their own, numbered 0..n-1."""

    rows: np.ndarray
    reading: Reading
    batches: list[Batch]


def take_part(pool: Pool, rows: np.ndarray) -> Part:
    """The given rows of the pool, so that a replay costs no more than they do."""
    place = {int(row): number for number, row in enumerate(rows)}
    reading = pool.reading
    batches = list(chosen_parts(pool.batches, np.isin(np.arange(len(reading.called)), rows)))
    for batch in batches:
        batch.rows = [place[row] for row in batch.rows]
    return Part(rows, Reading(reading.states[rows], reading.called[rows], reading.log_odds[rows]), batches)


@dataclass(frozen=True)
class Trial:
    """What one run of the recipe made.

    Attributes:
        recipe: Fits readers and directions.
        settings: Kind -> the best setting on VALID.
        called: `baseline`, `probe` and every kind -> `[n]` bool on TEST.
    """

    recipe: Recipe
    settings: dict[str, Setting]
    called: dict[str, np.ndarray]


def labelled_split(pool: Pool, rows: np.ndarray, labels: np.ndarray) -> ReadSplit:
    """Rows of the pool as a split, with `labels` `[N]` in place of the annotations."""
    requests = [replace(pool.requests[row], label=int(labels[row])) for row in rows]
    return ReadSplit(requests, [], *(column[rows] for column in vars(pool.reading).values()))


def run_trial(
    pool: Pool,
    cal: np.ndarray,
    train: np.ndarray,
    valid: Part,
    test: Part,
    labels: np.ndarray,
    kinds: tuple[str, ...],
) -> Trial:
    """Fit, tune and test once.

    Args:
        pool: The requests.
        cal: Rows of CAL; the domains that occur here are those the router knows.
        train: Rows of TRAIN.
        valid: VALID.
        test: TEST; its labels are not looked at.
        labels: `[N]`, of the whole pool.
        kinds: Directions to try, among them the pool's `kind`.
    """
    names = [name for name in pool.names if (pool.domains[cal] == name).any()]
    fit = labelled_split(pool, cal, labels)
    recipe = Recipe(fit, fit + labelled_split(pool, train, labels), names, pool.strength, pool.own)
    unsteered, states, truth = valid.reading.called, valid.reading.states, labels[valid.rows]
    readers = {pool.layers[kind]: recipe.readers(pool.layers[kind]) for kind in kinds}
    directions = {(kind, pool.layers[kind]): recipe.directions(kind, pool.layers[kind]) for kind in kinds}
    scored = sweep_settings(valid.batches, states, unsteered, truth, readers, directions, pool.trigger_id)
    fpr = confusion(unsteered, truth)["fpr"]
    settings = {kind: best_setting(scored, fpr, kind) for kind in kinds}
    called = {
        "baseline": test.reading.called,
        "probe": p_needed(test, recipe, pool.layers[pool.kind]) >= 0.5,
        **{kind: steered(pool.trigger_id, test, recipe, setting, None) for kind, setting in settings.items()},
    }
    return Trial(recipe, settings, called)


def p_needed(part: Part, recipe: Recipe, layer: int) -> np.ndarray:
    """`[n]`, the probability that a tool is needed, as read at a layer."""
    return recipe.readers(layer).p_tool(part.reading.states[:, layer])


def steered(trigger_id: int, part: Part, recipe: Recipe, setting: Setting, signs: np.ndarray | None) -> np.ndarray:
    """`[n]` bool: whether the model calls when each row is pushed by the setting's dose times its sign.

    Args:
        trigger_id: First token of the trigger.
        part: The requests to push.
        recipe: Fits readers and directions.
        setting: Its direction, layer, dose and beta are used.
        signs: `[n]`, +1, 0 or -1; None: the gate with the setting's tau.
    """
    reader = recipe.readers(setting.layer)
    if signs is None:
        signs = gates(p_needed(part, recipe, setting.layer), setting.tau)
    routed = reader.route(part.reading.states[:, setting.layer])
    push = push_along(reader, setting.dose, signs, recipe.vectors(setting)[routed])
    return replay_triggers(part.batches, part.reading.states, setting.layer, push, trigger_id)


def rates(called: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """F1 and false-positive rate; None without a denominator."""
    scores = confusion(called, labels)
    return {name: scores[name] for name in ("f1", "fpr")}


def scored_runs(trial: Trial, labels: np.ndarray) -> dict:
    """`f1` and `fpr` of every run of a trial against TEST's `labels` `[n]`; of a direction also its setting and gap."""
    runs = {run: rates(called, labels) for run, called in trial.called.items()}
    for kind, setting in trial.settings.items():
        gap = gap_closed(runs[kind]["f1"], runs["baseline"]["f1"], runs["probe"]["f1"])
        runs[kind] |= {"gap_closed": gap} | {name: getattr(setting, name) for name in ("layer", "dose", "beta", "tau")}
    return runs


def summary(trials: list[dict], kinds: tuple[str, ...]) -> dict:
    """Mean and standard deviation over `scored_runs` of several trials: run -> measure -> `mean`, `std`."""
    measures = {run: ("f1", "fpr", "gap_closed") if run in kinds else ("f1", "fpr") for run in trials[0]}
    columns = {run: {m: [trial[run][m] for trial in trials] for m in names} for run, names in measures.items()}
    return {run: {m: mean_and_std(values) for m, values in column.items()} for run, column in columns.items()}
