"""Robustness: does the result hold when something else is changed.

The recipe runs again on other splits, with a domain left out, with wrong labels, with a keyword guesser's labels. Two
more parts look at the committed split: the threshold for a wanted false-positive rate, and what the original's
protocol, which scores the probe in place of the model, claims and gives.

Calls are the model's next token after the push, by replay; where the probe alone is scored, it is to show what that
hides. The layer and the probes' regularisation stay as chosen once. TEST is looked at many times here, and nothing is
chosen on it.
"""

import re

import numpy as np
from sklearn.metrics import cohen_kappa_score

from asa.engine import Batch
from asa.processes import progress
from asa.requests import Request, RequestsError, split_requests
from asa.running import Reading
from asa.trials import Part, Pool, Trial, p_needed, rates, run_trial, scored_runs, steered, summary, take_part
from asa.tuning import BETAS, DOSES, TAUS, Setting, gates
from asa.vectors import DIRECTIONS, NECESSITY

RESPLITS = 5
FLIPS = (0.05, 0.1, 0.2)  # shares of wrong labels
FLIP_SEEDS = 2
TARGET_FPR = 0.05
BINS = 10
KEYWORDS = {  # a guess by domain: the request needs its tool where one of these stands in it
    "math": r"calculat|comput|how (many|much)|\bsum\b|average|percent|%|solve|convert|\d\s*[-+*/x=^]\s*\d",
    "code": r"\bcode\b|function|program|script|python|algorithm|\bsort|regex|debug|output of",
    "search": r"\b(who|when|where|which)\b|latest|current|recent|today|news|price|weather|find|search|look up",
    "translation": r"translat|\b(in|into|to) (arabic|chinese|english|french|german|italian|japanese|korean|latin"
    r"|portuguese|russian|spanish)\b",
}


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


def over_splits(pool: Pool, seed: int) -> dict | None:
    """Trials on other splits, near-duplicates on one side, both directions; None where no other split can be made."""

    def scored(rows) -> dict:  # its parts are let go before the next split takes its own
        valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
        trial = run_trial(pool, rows["cal"], rows["train"], valid, test, pool.labels, DIRECTIONS)
        return scored_runs(trial, pool.labels[test.rows])

    trials = {other: scored(rows) for other, rows in other_splits(pool, seed).items()}
    if not trials:
        return None
    return {"seeds": list(trials), "trials": list(trials.values()), "summary": summary([*trials.values()], DIRECTIONS)}


def domains_left_out(pool: Pool, rows, committed: Trial, kind: str) -> dict:
    """Domain -> `left_out` (fitted and tuned on the others, tested on it) and `all_domains`, on the same TEST rows."""
    if len(pool.names) == 1:
        return {}
    results = {}
    for name in pool.names:
        here = {split: pool.domains[places] == name for split, places in rows.items()}
        cal, train, valid = (rows[split][~here[split]] for split in ("cal", "train", "valid"))
        test = take_part(pool, rows["test"][here["test"]])
        trial = run_trial(pool, cal, train, take_part(pool, valid), test, pool.labels, (kind,))
        labels = pool.labels[test.rows]
        with_all = {run: rates(called[here["test"]], labels) for run, called in committed.called.items()}
        results[name] = {"left_out": scored_runs(trial, labels), "all_domains": with_all}
    return results


def flipped(pool: Pool, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The pool's labels with `share` of every cell (a domain and a label) of `rows` turned round."""
    labels, rng = pool.labels.copy(), np.random.default_rng(seed)
    for name in pool.names:
        for label in (0, 1):
            cell = rows[(pool.domains[rows] == name) & (pool.labels[rows] == label)]
            labels[rng.choice(cell, round(share * len(cell)), replace=False)] = 1 - label
    return labels


def with_wrong_labels(pool: Pool, rows, valid: Part, test: Part, kind: str, seed: int) -> list[dict]:
    """Trials with a share of labels turned round, a row a share: `share`, `trials`, `summary`.

    Wrong are CAL, TRAIN and VALID, since whoever has wrong labels also tunes on them; TEST stays right.
    """
    chosen = np.concatenate([rows[split] for split in ("cal", "train", "valid")])
    results = []
    for share in FLIPS:
        trials = []
        for number in range(FLIP_SEEDS):
            labels = flipped(pool, chosen, share, seed + number)
            trial = run_trial(pool, rows["cal"], rows["train"], valid, test, labels, (kind,))
            trials.append(scored_runs(trial, pool.labels[test.rows]))
        results.append({"share": share, "trials": trials, "summary": summary(trials, (kind,))})
    return results


def keyword_labels(requests: list[Request]) -> np.ndarray:
    """`[N]` guessed labels: 1 where a keyword of the request's domain stands in its text."""
    return np.array([int(bool(re.search(KEYWORDS[r.domain], r.text, re.IGNORECASE))) for r in requests])


def with_keyword_labels(pool: Pool, rows, valid: Part, test: Part, committed: Trial, kind: str) -> dict | None:
    """How far keyword labels agree with the annotations, and trials fitted on either, scored against both.

    None where a domain has no keywords, or they give all its CAL requests one label.
    """
    if not set(pool.names) <= set(KEYWORDS):
        return None
    guessed = keyword_labels(pool.requests)
    here = {name: pool.domains == name for name in pool.names}
    if any(len(set(guessed[rows["cal"]][here[name][rows["cal"]]])) < 2 for name in pool.names):
        return None
    trial = run_trial(pool, rows["cal"], rows["train"], valid, test, guessed, (kind,))
    same = guessed == pool.labels
    truths = {"keywords": guessed[test.rows], "annotations": pool.labels[test.rows]}
    return {
        "agreement": {"all": float(same.mean())} | {name: float(same[there].mean()) for name, there in here.items()},
        "kappa": float(cohen_kappa_score(guessed, pool.labels)),
        "share_needing_tool": {"keywords": float(guessed.mean()), "annotations": float(pool.labels.mean())},
        "fitted_on": {
            source: {f"against_{truth}": scored_runs(fitted, labels) for truth, labels in truths.items()}
            for source, fitted in (("keywords", trial), ("annotations", committed))
        },
    }


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


def reliability(p_tool: np.ndarray, labels: np.ndarray) -> list[dict]:
    """`BINS` bins of equal width: `count`, mean p and the share that needs a tool, None in an empty one."""
    place = np.minimum((p_tool * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        here = place == number
        mean_p, share = (float(p_tool[here].mean()), float(labels[here].mean())) if here.any() else (None, None)
        bins.append({"count": int(here.sum()), "mean_p": mean_p, "needs_tool": share})
    return bins


def at_target_fpr(pool: Pool, valid: Part, test: Part, committed: Trial) -> dict:
    """A threshold chosen on VALID for a false-positive rate of the probe, and the rates it gives on TEST.

    Above it a request is pushed toward a call, below it away. (A larger tau would not do: rows between 1 - tau and tau
    are left to the unsteered model and its own false calls.)
    """
    p_tool = {part: p_needed(pool, of, committed.readers) for part, of in (("valid", valid), ("test", test))}
    labels = {"valid": pool.labels[valid.rows], "test": pool.labels[test.rows]}
    threshold = threshold_for(p_tool["valid"], labels["valid"], TARGET_FPR)
    up = p_tool["test"] >= threshold
    signs = np.where(up, 1, -1)
    runs = {"probe": rates(up, labels["test"])}
    for kind, setting in committed.settings.items():
        called = steered(pool, test, committed.readers, committed.directions[kind], setting, signs)
        runs[kind] = rates(called, labels["test"])
    return {
        "target_fpr": TARGET_FPR, "threshold": threshold,
        "valid": {"probe": rates(p_tool["valid"] >= threshold, labels["valid"])}, "test": runs,
        "reliability": {part.upper(): reliability(p_tool[part], labels[part]) for part in p_tool},
    }  # fmt: skip


def by_scoring_the_probe(pool: Pool, valid: Part, test: Part, committed: Trial) -> dict:
    """The original's protocol beside ours: settings chosen by the F1 of the probe's decision on VALID.

    That score is the same for every dose and beta, so the first of the grid wins: `tied` settings share it. `claimed`
    is what the probe scores there, `real` what the model does with that setting and the paper's direction, `ours` the
    same direction at the setting chosen by replay; `valid_by_dose` is what the claim hides.
    """
    truth = {"valid": pool.labels[valid.rows], "test": pool.labels[test.rows]}
    p_valid, p_test = (p_needed(pool, part, committed.readers) for part in (valid, test))
    tau = max(TAUS, key=lambda tau: (rates(p_valid >= tau, truth["valid"])["f1"], -tau))
    picked = Setting(NECESSITY, pool.layer, DOSES[0], BETAS[0], tau)
    vectors = committed.directions[NECESSITY]
    real = steered(pool, test, committed.readers, vectors, picked, gates(p_test, tau))
    alike = [s for s in committed.scored if (s.direction, s.beta, s.tau) == (NECESSITY, picked.beta, tau)]
    return {
        "dose": picked.dose, "beta": picked.beta, "tau": tau, "tied": len(DOSES) * len(BETAS),
        "claimed": {"valid": rates(p_valid >= tau, truth["valid"]), "test": rates(p_test >= tau, truth["test"])},
        "real": {"test": rates(real, truth["test"])},
        "ours": {"test": rates(committed.called[NECESSITY], truth["test"])},
        "valid_by_dose": [{"dose": s.dose, "f1": s.f1, "fpr": s.fpr} for s in alike],
    }  # fmt: skip


# %%
def run_robustness(
    requests: list[Request],
    rows: dict[str, np.ndarray],
    reading: Reading,
    batches: list[Batch],
    names: list[str],
    chosen: Setting,
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
        chosen: The setting that the pipeline chose; its layer and direction are used.
        probe: (strength, own) of the readers, as chosen.
        trigger_id: First token of the trigger.
        seed: Of the committed split; others follow it.

    Returns:
        `committed`, `splits`, `left_out`, `wrong_labels`, `keywords`, `target_fpr`, `probe_protocol`.
    """
    labels, domains = np.array([r.label for r in requests]), np.array([r.domain for r in requests])
    pool = Pool(requests, labels, domains, reading, batches, names, chosen.layer, *probe, trigger_id)
    kind = chosen.direction
    valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
    committed = run_trial(pool, rows["cal"], rows["train"], valid, test, labels, DIRECTIONS)
    parts = {
        "committed": lambda: scored_runs(committed, labels[test.rows]),
        "splits": lambda: over_splits(pool, seed),
        "left_out": lambda: domains_left_out(pool, rows, committed, kind),
        "wrong_labels": lambda: with_wrong_labels(pool, rows, valid, test, kind, seed),
        "keywords": lambda: with_keyword_labels(pool, rows, valid, test, committed, kind),
        "target_fpr": lambda: at_target_fpr(pool, valid, test, committed),
        "probe_protocol": lambda: by_scoring_the_probe(pool, valid, test, committed),
    }
    return {name: run() for name, run in progress(parts.items(), desc="robustness", unit="part")}
