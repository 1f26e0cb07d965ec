"""Labels: what becomes of the method where labels are wrong, or come from keywords.

Trials that change nothing but the labels of CAL, TRAIN and VALID.
"""

import re

import numpy as np
from sklearn.metrics import cohen_kappa_score

from asa.data.requests import Request
from asa.study.trials import Part, Pool, Trial, run_trial, scored_runs, summary

FLIPS = (0.05, 0.1, 0.2)  # shares of wrong labels
FLIP_SEEDS = 2
KEYWORDS = {  # a guess by domain: the request needs its tool where one of these stands in it
    "math": r"calculat|comput|how (many|much)|\bsum\b|average|percent|%|solve|convert|\d\s*[-+*/x=^]\s*\d",
    "code": r"\bcode\b|function|program|script|python|algorithm|\bsort|regex|debug|output of",
    "search": r"\b(who|when|where|which)\b|latest|current|recent|today|news|price|weather|find|search|look up",
    "translation": r"translat|\b(in|into|to) (arabic|chinese|english|french|german|italian|japanese|korean|latin"
    r"|portuguese|russian|spanish)\b",
}


def flip_labels(pool: Pool, splits: list[np.ndarray], share: float, seed: int) -> np.ndarray:
    """The pool's labels with `share` of every cell (a domain and a label) of the splits' rows flipped.

    A domain that this leaves with one label in a split, as it may on very few rows, gets its own labels back there.
    """
    labels, rng, rows = pool.labels.copy(), np.random.default_rng(seed), np.concatenate(splits)
    for name in pool.names:
        for label in (0, 1):
            cell = rows[(pool.domains[rows] == name) & (pool.labels[rows] == label)]
            labels[rng.choice(cell, round(share * len(cell)), replace=False)] = 1 - label
        for split in splits:
            here = split[pool.domains[split] == name]
            if len(set(labels[here])) == 1:
                labels[here] = pool.labels[here]
    return labels


def try_wrong_labels(pool: Pool, rows: dict[str, np.ndarray], valid: Part, test: Part, seed: int) -> list[dict]:
    """Trials with a share of flipped labels, one row per share: `share` (that came out), `trials`, `summary`.

    Wrong are CAL, TRAIN and VALID, since whoever has wrong labels also tunes on them; TEST stays right.
    """
    splits = [rows[split] for split in ("cal", "train", "valid")]
    kinds, results = (pool.kind,), []
    for share in FLIPS:
        trials, wrong = [], []
        for number in range(FLIP_SEEDS):
            labels = flip_labels(pool, splits, share, seed + number)
            trial = run_trial(pool, rows["cal"], rows["train"], valid, test, labels, kinds)
            trials.append(scored_runs(trial, pool.labels[test.rows]))
            wrong.append((labels != pool.labels)[np.concatenate(splits)].mean())
        results.append({"share": float(np.mean(wrong)), "trials": trials, "summary": summary(trials, kinds)})
    return results


def keyword_labels(requests: list[Request]) -> np.ndarray:
    """`[N]` guessed labels: 1 where a keyword of the request's domain stands in its text."""
    return np.array([int(bool(re.search(KEYWORDS[r.domain], r.text, re.IGNORECASE))) for r in requests])


def try_keyword_labels(pool: Pool, rows: dict[str, np.ndarray], valid: Part, test: Part, committed: Trial) -> dict:
    """How far keyword labels agree with the annotations, and trials fitted on either, scored against both.

    Where that cannot be: `no_keywords`, domains without any, or `one_label`, domains whose CAL requests they label all
    alike.
    """
    unknown = [name for name in pool.names if name not in KEYWORDS]
    if unknown:
        return {"no_keywords": unknown}
    guessed = keyword_labels(pool.requests)
    here = {name: pool.domains == name for name in pool.names}
    alike = [name for name in pool.names if len(set(guessed[rows["cal"]][here[name][rows["cal"]]])) < 2]
    if alike:
        return {"one_label": alike}
    trial = run_trial(pool, rows["cal"], rows["train"], valid, test, guessed, (pool.kind,))
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
