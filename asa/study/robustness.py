"""Robustness: does the result hold when something else is changed.

The recipe runs again on other splits, with a domain left out, with wrong labels, with a keyword guesser's labels. Two
more parts look at the main split: the threshold for a wanted false-positive rate, and what the original's
protocol, which scores the probe in place of the model, claims and gives.

Calls are the model's next token after the push, by replay; where the probe alone is scored, it is to show what that
hides. The layers (each direction's own best) and the probes' regularisation stay as chosen once. The main TEST is
looked at many times here, and nothing is chosen on it.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np

from asa.data.requests import Request, RequestsError
from asa.data.scores import worth
from asa.data.splits import Split, split_requests
from asa.engine.batch import Batch
from asa.engine.states import Reading
from asa.evaluation.targets import reliability
from asa.method.directions import DIRECTIONS, NECESSITY
from asa.method.tuning import BETAS, DOSES, TAUS, Setting
from asa.study.labels import try_keyword_labels, try_wrong_labels
from asa.study.trials import Part, Pool, Trial, p_needed, rates, run_trial, scored_runs, steered, summary, take_part
from asa.support.processes import progress

RESPLITS = 5
TARGET_FPR = 0.05


def pooled(splits: Mapping[str, Split]) -> tuple[list[Request], list[list[int]], dict[str, np.ndarray]]:
    """The splits' requests and prompts, one split after the other, and which rows are whose."""
    ends = np.cumsum([len(split) for split in splits.values()])
    rows = {name: np.arange(end - len(of), end) for (name, of), end in zip(splits.items(), ends, strict=True)}
    requests = [request for split in splits.values() for request in split.requests]
    return requests, [ids for split in splits.values() for ids in split.prompts], rows


def other_splits(pool: Pool, seed: int) -> dict[int, dict[str, np.ndarray]]:
    """`RESPLITS` other splits of the pool's rows, by seed; one that near-duplicates leave unfilled is passed over."""
    place = {request: row for row, request in enumerate(pool.requests)}
    splits: dict[int, dict[str, np.ndarray]] = {}
    for other in range(seed + 1, seed + 1 + 4 * RESPLITS):
        try:
            parts = split_requests(pool.requests, other)
        except RequestsError:
            continue
        splits[other] = {name: np.array([place[request] for request in rows]) for name, rows in parts.items()}
        if len(splits) == RESPLITS:
            break
    return splits


def resplit(pool: Pool, rows: dict[str, np.ndarray], seed: int) -> dict | None:
    """Trials on other splits, near-duplicates on one side, both directions; None where no other split can be made.

    Layers and regularisation are not chosen anew, so they have seen what the new TESTs share with the main VALID:
    `seen` is the mean share of their rows.
    """
    splits = other_splits(pool, seed)
    if not splits:
        return None

    def scored(of: dict[str, np.ndarray]) -> dict:  # its parts are let go before the next split takes its own
        valid, test = take_part(pool, of["valid"]), take_part(pool, of["test"])
        trial = run_trial(pool, of["cal"], of["train"], valid, test, pool.labels, DIRECTIONS)
        return scored_runs(trial, pool.labels[test.rows])

    trials = [scored(of) for of in splits.values()]
    seen = float(np.mean([np.isin(of["test"], rows["valid"]).mean() for of in splits.values()]))
    return {"seeds": list(splits), "seen": seen, "trials": trials, "summary": summary(trials, DIRECTIONS)}


def domains_left_out(pool: Pool, rows: dict[str, np.ndarray], committed: Trial) -> dict:
    """Domain -> `left_out` (fitted and tuned on the others, tested on it) and `all_domains`, on the same TEST rows."""
    if len(pool.names) == 1:
        return {}
    results = {}
    for name in pool.names:
        here = {split: pool.domains[places] == name for split, places in rows.items()}
        cal, train, valid = (rows[split][~here[split]] for split in ("cal", "train", "valid"))
        test = take_part(pool, rows["test"][here["test"]])
        trial = run_trial(pool, cal, train, take_part(pool, valid), test, pool.labels, (pool.kind,))
        labels = pool.labels[test.rows]
        with_all = {run: rates(called[here["test"]], labels) for run, called in committed.called.items()}
        results[name] = {"left_out": scored_runs(trial, labels), "all_domains": with_all}
    return results


# %%
def threshold_for(p_tool: np.ndarray, labels: np.ndarray, fpr: float) -> float:
    """The smallest threshold at which at most `fpr` of the requests with label 0 have p >= threshold.

    >>> p = np.array([0.9, 0.8, 0.3, 0.2, 0.95])
    >>> round(threshold_for(p, np.array([0, 0, 0, 0, 1]), 0.25), 6)
    0.8
    """
    highest = np.sort(p_tool[labels == 0])[::-1]
    allowed = int(fpr * len(highest) + 1e-9)
    return float(np.nextafter(highest[allowed], 2.0)) if allowed < len(highest) else 0.0


def hit_target_fpr(pool: Pool, valid: Part, test: Part, committed: Trial) -> dict:
    """A threshold chosen on VALID for a false-positive rate of the probe, and the rates it gives on TEST.

    Above it a request is pushed toward a call, below it away; a direction obeys the probe of its layer, so `thresholds`
    has one for each. (A larger tau would not do: rows between 1 - tau and tau are left to the unsteered model and its
    own false calls.)
    """
    labels = {"valid": pool.labels[valid.rows], "test": pool.labels[test.rows]}
    p_tool = {
        kind: {part: p_needed(of, committed.recipe, setting.layer) for part, of in (("valid", valid), ("test", test))}
        for kind, setting in committed.settings.items()
    }
    thresholds = {kind: threshold_for(p["valid"], labels["valid"], TARGET_FPR) for kind, p in p_tool.items()}
    alone, threshold = p_tool[pool.kind], thresholds[pool.kind]
    runs = {"probe": rates(alone["test"] >= threshold, labels["test"])}
    for kind, setting in committed.settings.items():
        signs = np.where(p_tool[kind]["test"] >= thresholds[kind], 1, -1)
        called = steered(pool.trigger_id, test, committed.recipe, setting, signs)
        runs[kind] = rates(called, labels["test"])
    return {
        "target_fpr": TARGET_FPR, "thresholds": thresholds,
        "valid": {"probe": rates(alone["valid"] >= threshold, labels["valid"])}, "test": runs,
        "reliability": {part.upper(): reliability(alone[part], labels[part]) for part in alone},
    }  # fmt: skip


def score_the_probe(pool: Pool, valid: Part, test: Part, committed: Trial) -> dict:
    """The original's protocol beside ours: settings chosen by the F1 of the probe's decision on VALID.

    That score is the same for every dose and beta: `tied` settings share it, and the order of a grid decides which of
    them is taken. `claimed` is what the probe scores there, `real` what the model does on TEST with the paper's
    direction at the tied setting of the lowest, the median (the lower of the middle two) and the highest F1, `ours` the
    same direction at the setting chosen by replay, with a beta and a tau of its own.
    """
    truth = {"valid": pool.labels[valid.rows], "test": pool.labels[test.rows]}
    layer, ours = pool.layers[NECESSITY], committed.settings[NECESSITY]
    p_valid, p_test = (p_needed(part, committed.recipe, layer) for part in (valid, test))
    tau = max(TAUS, key=lambda tau: (worth(rates(p_valid >= tau, truth["valid"])["f1"]), -tau))
    real = []
    for dose, beta in product(DOSES, BETAS):
        setting = Setting(NECESSITY, layer, dose, beta, tau)
        called = steered(pool.trigger_id, test, committed.recipe, setting, None)
        real.append({"dose": dose, "beta": beta, **rates(called, truth["test"])})
    real.sort(key=lambda outcome: worth(outcome["f1"]))
    return {
        "tau": tau, "tied": len(real),
        "claimed": {"valid": rates(p_valid >= tau, truth["valid"]), "test": rates(p_test >= tau, truth["test"])},
        "real": {"lowest": real[0], "median": real[(len(real) - 1) // 2], "highest": real[-1]},
        "ours": {"dose": ours.dose, "beta": ours.beta, "tau": ours.tau,
                 "test": rates(committed.called[NECESSITY], truth["test"])},
    }  # fmt: skip


# %%
def run_robustness(
    requests: list[Request],
    rows: dict[str, np.ndarray],
    reading: Reading,
    batches: list[Batch],
    names: list[str],
    layers: dict[str, int],
    kind: str,
    probe: tuple[float, float],
    trigger_id: int,
    seed: int,
) -> dict:
    """All parts, as plain objects.

    Args:
        requests: Of all splits, `[N]`.
        rows: `cal`, `train`, `valid`, `test` -> places in `requests`.
        reading: Of the unsteered model, rows as `requests`.
        batches: Their prefilled batches.
        names: Domain names.
        layers: Direction -> the layer of its best setting on VALID.
        kind: The direction that the pipeline chose.
        probe: (strength, own) of the readers, as chosen.
        trigger_id: First token of the trigger.
        seed: Of the committed split; others follow it.

    Returns:
        `committed`, `splits`, `left_out`, `wrong_labels`, `keywords`, `target_fpr`, `probe_protocol`.
    """
    labels, domains = np.array([r.label for r in requests]), np.array([r.domain for r in requests])
    pool = Pool(requests, labels, domains, reading, batches, names, layers, kind, *probe, trigger_id)
    valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
    committed = run_trial(pool, rows["cal"], rows["train"], valid, test, labels, DIRECTIONS)
    parts = {
        "committed": lambda: scored_runs(committed, labels[test.rows]),
        "splits": lambda: resplit(pool, rows, seed),
        "left_out": lambda: domains_left_out(pool, rows, committed),
        "wrong_labels": lambda: try_wrong_labels(pool, rows, valid, test, seed),
        "keywords": lambda: try_keyword_labels(pool, rows, valid, test, committed),
        "target_fpr": lambda: hit_target_fpr(pool, valid, test, committed),
        "probe_protocol": lambda: score_the_probe(pool, valid, test, committed),
    }
    return {name: run() for name, run in progress(parts.items(), desc="robustness", unit="part")}
