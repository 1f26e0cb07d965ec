"""Trials: the whole recipe once, on any split and any labels, tested by replay.

A *trial* fits readers on CAL and TRAIN and directions on CAL, tunes dose, beta and tau on VALID at one layer, and tests
on TEST. All of it works on a pool of requests that were prefilled and read once, so a trial costs some seconds. A call
is the model's next token after the push; the probe's own decision is scored beside it, never in its place. The layer
and the probes' regularisation are given. Why one would change something is not asked here.
"""

from dataclasses import dataclass

import numpy as np

from asa.engine import Batch
from asa.evaluation import confusion, gap_closed, mean_and_std
from asa.probes import Readers, fit_readers
from asa.requests import Request
from asa.running import Reading, chosen_parts
from asa.tuning import Setting, best_setting, gates, push_along, replay_triggers, sweep_settings
from asa.vectors import fit_directions, mixed


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
        layer: The steered block.
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
    layer: int
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
        readers: Of the pool's layer.
        directions: Kind -> domain -> unit vector.
        scored: Every setting, on VALID.
        settings: Kind -> the best of them.
        called: `baseline`, `probe` and every kind -> `[n]` bool on TEST.
    """

    readers: Readers
    directions: dict[str, dict[str, np.ndarray]]
    scored: list[Setting]
    settings: dict[str, Setting]
    called: dict[str, np.ndarray]


def run_trial(pool: Pool, cal, train, valid: Part, test: Part, labels: np.ndarray, kinds: tuple[str, ...]) -> Trial:
    """Fit, tune and test once.

    Args:
        pool: The requests.
        cal: Rows of CAL; the domains that occur here are those the router knows.
        train: Rows of TRAIN.
        valid: VALID.
        test: TEST; its labels are not looked at.
        labels: `[N]`, of the whole pool.
        kinds: Directions to try.
    """
    states, layer, fit = pool.reading.states[:, pool.layer], pool.layer, np.concatenate([cal, train])
    names = [name for name in pool.names if (pool.domains[cal] == name).any()]
    readers = fit_readers(states[fit], labels[fit], list(pool.domains[fit]), names, pool.strength, pool.own)
    seen = (pool.reading.called[cal], pool.reading.log_odds[cal])
    directions = {
        kind: fit_directions(kind, states[cal], labels[cal], list(pool.domains[cal]), *seen, names) for kind in kinds
    }
    unsteered = valid.reading.called
    scored = sweep_settings(
        valid.batches, valid.reading.states, unsteered, labels[valid.rows], {layer: readers},
        {(kind, layer): directions[kind] for kind in kinds}, pool.trigger_id,
    )  # fmt: skip
    fpr = confusion(unsteered, labels[valid.rows])["fpr"]
    settings = {kind: best_setting(scored, fpr, kind) for kind in kinds}
    p_tool = p_needed(pool, test, readers)
    called = {"baseline": test.reading.called, "probe": p_tool >= 0.5}
    for kind, setting in settings.items():
        called[kind] = steered(pool, test, readers, directions[kind], setting, gates(p_tool, setting.tau))
    return Trial(readers, directions, scored, settings, called)


def p_needed(pool: Pool, part: Part, readers: Readers) -> np.ndarray:
    """`[n]`, the probability that a tool is needed."""
    return readers.p_tool(part.reading.states[:, pool.layer])


def steered(pool: Pool, part: Part, readers: Readers, directions, setting: Setting, signs: np.ndarray) -> np.ndarray:
    """`[n]` bool: whether the model calls when each row is pushed by the setting's dose times its sign."""
    along = mixed(directions, setting.beta, readers.domains)[readers.route(part.reading.states[:, pool.layer])]
    push = push_along(readers, setting.dose, signs, along)
    return replay_triggers(part.batches, part.reading.states, pool.layer, push, pool.trigger_id)


def rates(called, labels) -> dict[str, float]:
    """F1 and false-positive rate."""
    scores = confusion(called, labels)
    return {name: scores[name] for name in ("f1", "fpr")}


def scored_runs(trial: Trial, labels: np.ndarray) -> dict:
    """`f1` and `fpr` of every run of a trial against TEST's `labels` `[n]`; of a direction also its setting and gap."""
    runs = {run: rates(called, labels) for run, called in trial.called.items()}
    for kind, setting in trial.settings.items():
        gap = gap_closed(runs[kind]["f1"], runs["baseline"]["f1"], runs["probe"]["f1"])
        runs[kind] |= {"gap_closed": gap, "dose": setting.dose, "beta": setting.beta, "tau": setting.tau}
    return runs


def summary(trials: list[dict], kinds: tuple[str, ...]) -> dict:
    """Mean and standard deviation over `scored_runs` of several trials: run -> measure -> `mean`, `std`."""
    measures = {run: ("f1", "fpr", "gap_closed") if run in kinds else ("f1", "fpr") for run in trials[0]}
    columns = {run: {m: [trial[run][m] for trial in trials] for m in names} for run, names in measures.items()}
    return {run: {m: mean_and_std(values) for m, values in column.items()} for run, column in columns.items()}
