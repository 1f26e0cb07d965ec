"""Evaluation: did the model call a tool when it should have, and was the call any good.

Strict trigger: the profile's trigger stands in the *generated* tokens, outside of any thinking. "First token" asks
only the token after the prompt. Every rate has a 95 % interval (Wilson), F1 a bootstrap over requests, and two runs
on the same requests are compared by an exact McNemar test. After a trigger, three rates: the call parses, the tool is
known, the arguments fit its schema. What has no denominator is no number: it is None, and so is its interval;
`why_missing` says why. Nothing is chosen here, and nothing is read from a probe.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from asa.models.profiles import Profile
from asa.tools.definitions import Tool, ToolCallError, check_call, parse_tool_calls
from asa.tools.parser import spoken

BOOTSTRAP_ROUNDS = 2000
NO_DENOMINATOR = {  # a rate -> why it can be missing; without requests all are, for one reason
    "accuracy": "no request, so there are no rates",
    "recall": "no request with need of a tool, so there is no recall",
    "fpr": "no request without need of a tool, so there is no FPR",
    "precision": "no call, so there is no precision",
    "f1": "no call and no request with need of a tool, so there is no F1",
}


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`; None where there is nothing to divide by."""
    return part / whole if whole else None


def confusion(called, labels) -> dict[str, float | None]:
    """Counts and rates of trigger decisions `called` `[N]` (bool) against `labels` `[N]` (0 or 1).

    A rate without a denominator is None.

    >>> confusion(np.array([True, True, False, False]), np.array([1, 0, 1, 0]))["f1"]
    0.5
    """
    called, needed = np.asarray(called, bool), np.asarray(labels) == 1
    tp, fp = int((called & needed).sum()), int((called & ~needed).sum())
    fn, tn = int((~called & needed).sum()), int((~called & ~needed).sum())

    return {
        "precision": ratio(tp, tp + fp), "recall": ratio(tp, tp + fn), "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "fpr": ratio(fp, fp + tn), "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "tp": tp, "fp": fp, "fn": fn, "tn": tn,
    }  # fmt: skip


def why_missing(runs: dict[str, dict]) -> list[str]:
    """A sentence for every kind of rate that is None in the `confusion` of several runs; it names those it is about.

    >>> why_missing({"baseline": confusion([True, False], [1, 1])})
    ['No request without need of a tool, so there is no FPR.']
    >>> why_missing({"baseline": confusion([False, False], [1, 0]), "ASA": confusion([True, True], [1, 0])})
    ['baseline: no call, so there is no precision.']
    """
    found: dict[str, list[str]] = {}
    for run, scores in runs.items():
        missing = [name for name in NO_DENOMINATOR if scores.get(name, 0.0) is None]
        for name in missing[:1] if missing[:1] == ["accuracy"] else missing:
            found.setdefault(NO_DENOMINATOR[name], []).append(run)
    return [
        f"{reason[0].upper()}{reason[1:]}." if len(named) == len(runs) else f"{', '.join(named)}: {reason}."
        for reason, named in found.items()
    ]


def auc_of(labels, scores) -> float | None:
    """Area under the ROC curve of `scores` `[N]` against `labels` `[N]` (0 or 1); None where all labels are alike."""
    return float(roc_auc_score(labels, scores)) if len(np.unique(labels)) > 1 else None


def wilson(hits: int, total: int) -> list[float] | None:
    """Wilson 95 % interval of a rate, `[low, high]`; None where nothing was counted."""
    if total == 0:
        return None
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def rate_of(hits: int, total: int) -> dict:
    """A rate with its interval: `rate`, `interval` (both None where nothing was counted), `hits`, `total`."""
    return {"rate": ratio(hits, total), "interval": wilson(hits, total), "hits": hits, "total": total}


def f1_interval(called, labels, seed: int) -> list[float] | None:
    """95 % bootstrap interval of F1 over requests; None where F1 is 0 or 1: requests drawn again say the same."""
    called, needed = np.asarray(called, bool), np.asarray(labels) == 1
    if not (called & needed).any() or (called == needed).all():
        return None
    picks = np.random.default_rng(seed).integers(0, len(called), (BOOTSTRAP_ROUNDS, len(called)))
    tp = (called & needed)[picks].sum(axis=1)
    twice = called[picks].sum(axis=1) + needed[picks].sum(axis=1)
    return [float(bound) for bound in np.percentile(2 * tp / np.maximum(twice, 1), [2.5, 97.5])]


def trigger_metrics(called, labels, seed: int) -> dict:
    """`confusion` plus `intervals`: 95 % `[low, high]` for every rate; None without one, and for an F1 of 0 or 1."""
    scores = confusion(called, labels)
    tp, fp, fn, tn = (scores[name] for name in ("tp", "fp", "fn", "tn"))
    scores["intervals"] = {
        "precision": wilson(tp, tp + fp), "recall": wilson(tp, tp + fn), "f1": f1_interval(called, labels, seed),
        "fpr": wilson(fp, fp + tn), "accuracy": wilson(tp + tn, tp + fp + fn + tn),
    }  # fmt: skip
    return scores


def mcnemar(called_a, called_b, labels) -> dict[str, float]:
    """Exact McNemar test of two runs' correctness on the same requests.

    Returns:
        `only_a`, `only_b`: requests only one run got right; `p_value`, two-sided.
    """
    labels = np.asarray(labels) == 1
    right_a, right_b = np.asarray(called_a, bool) == labels, np.asarray(called_b, bool) == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    p_value = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a": only_a, "only_b": only_b, "p_value": p_value}


def gap_closed(f1_steered: float | None, f1_baseline: float | None, f1_probe: float | None) -> float | None:
    """Share of the way from the baseline's F1 to the probe's that steering goes; None where there is no gap.

    >>> round(gap_closed(0.6185, 0.5285, 0.8054), 2)
    0.33
    """
    if f1_steered is None or f1_baseline is None or f1_probe is None or f1_probe <= f1_baseline:
        return None
    return (f1_steered - f1_baseline) / (f1_probe - f1_baseline)


def difference(value: float | None, other: float | None) -> float | None:
    """`value - other`; None where either is missing."""
    return None if value is None or other is None else value - other


def worth(f1: float | None) -> float:
    """F1 to choose by: where it is None nothing was needed and nothing called, so nothing went wrong and it is 1."""
    return 1.0 if f1 is None else f1


def mean_or_none(values) -> float | None:
    """The mean of `values`; None where there are none."""
    return float(np.mean(values)) if len(values) else None


def mean_and_std(values) -> dict[str, float | None]:
    """`mean` and sample standard deviation `std` of repeated measurements, of those that are not None.

    A mean needs one of them and a deviation two; without, it is None. Where some are missing, `counted` and `total` say
    how many are there and how many were made.

    >>> mean_and_std([0.25, None, 0.75])["mean"], mean_and_std([0.25, None, 0.75])["counted"]
    (0.5, 2)
    """
    there = [value for value in values if value is not None]
    of = {"mean": mean_or_none(there), "std": float(np.std(there, ddof=1)) if len(there) > 1 else None}
    return of if len(there) == len(values) else of | {"counted": len(there), "total": len(values)}


def call_validity(answers: list[str], tools: dict[str, Tool], markers: tuple[str, str]) -> dict:
    """Rates over answers that say the trigger: `format` (parses), `tool` (known name), `arguments` (fit the schema).

    Each is a `rate_of` the triggered answers. An answer counts by its first call.
    """
    triggered = [answer for answer in answers if markers[0] in spoken(answer)]
    hits = {"format": 0, "tool": 0, "arguments": 0}
    for answer in triggered:
        try:
            calls = parse_tool_calls(answer, markers=markers)
        except ToolCallError:
            continue
        if calls:
            known, fitting = check_call(calls[0], tools)
            hits["format"] += 1
            hits["tool"] += known
            hits["arguments"] += fitting
    return {name: rate_of(count, len(triggered)) for name, count in hits.items()}


def trigger_test(tokenizer, trigger: str, opened: str = "") -> Callable[[list[int]], bool]:
    """A test whether generated ids say the trigger: by its id where it is one token, else in the decoded text.

    What the model only thinks does not count (`calls.spoken`).

    Args:
        tokenizer: Of the model.
        trigger: The profile's.
        opened: The tag that the prompt has opened (`Prompter.opened`).
    """
    ids = tokenizer(trigger, add_special_tokens=False)["input_ids"]

    def triggered(generated: list[int]) -> bool:
        if len(ids) == 1 and ids[0] not in generated:
            return False  # nothing to decode
        return trigger in spoken(opened + tokenizer.decode(generated, skip_special_tokens=False))

    return triggered


def closing_test(tokenizer, model, profile: Profile, opened: str = "") -> Callable[[list[int]], bool]:
    """A test whether generated ids are a finished answer: end of turn, a closed call, or words at their limit.

    A call that is only rehearsed closes nothing, and thoughts are no words (`calls.spoken`).

    Args:
        tokenizer: Of the model.
        model: Names the tokens that end a turn.
        profile: Names what closes a call or ends a turn, and the limit of words.
        opened: As in `trigger_test`.
    """
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    texts = [text for text in (profile.call_end, profile.turn_end) if text]
    window = 3 + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)  # neighbours merge
    triggered = trigger_test(tokenizer, profile.trigger, opened)

    def answer(ids: list[int]) -> str:
        return opened + tokenizer.decode(ids, skip_special_tokens=False)

    def words(ids: list[int]) -> int:
        said = spoken(whole := answer(ids))
        return len(ids) if said == whole else len(tokenizer(said.strip(), add_special_tokens=False)["input_ids"])

    def closed(ids: list[int]) -> bool:
        recent = tokenizer.decode(ids[-window:], skip_special_tokens=False)
        if ids[-1] in ends or (profile.turn_end and profile.turn_end in recent):
            return True
        if profile.call_end in recent and profile.call_end in spoken(answer(ids)):
            return True
        return len(ids) >= profile.words_limit and not triggered(ids) and words(ids) >= profile.words_limit

    return closed
