"""Evaluation: did the model call a tool when it should have, and was the call any good.

Strict trigger: the profile's trigger stands in the *generated* tokens. "First token" asks only the token after the
prompt. Every rate has a 95 % interval (Wilson), F1 a bootstrap over requests, and two runs on the same requests are
compared by an exact McNemar test. After a trigger, three rates: the call parses, the tool is known, the arguments
fit its schema. Nothing is chosen here, and nothing is read from a probe.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import binomtest

from asa.profiles import Profile
from asa.tools import Tool, ToolCallError, check_call, parse_tool_calls

BOOTSTRAP_ROUNDS = 2000


def confusion(called, labels) -> dict[str, float]:
    """Counts and rates of trigger decisions `called` `[N]` (bool) against `labels` `[N]` (0 or 1).

    Rates with an empty denominator are 0.

    >>> confusion(np.array([True, True, False, False]), np.array([1, 0, 1, 0]))["f1"]
    0.5
    """
    called, needed = np.asarray(called, bool), np.asarray(labels) == 1
    tp, fp = int((called & needed).sum()), int((called & ~needed).sum())
    fn, tn = int((~called & needed).sum()), int((~called & ~needed).sum())

    def ratio(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    return {
        "precision": ratio(tp, tp + fp), "recall": ratio(tp, tp + fn), "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "fpr": ratio(fp, fp + tn), "accuracy": ratio(tp + tn, tp + fp + fn + tn),
        "tp": tp, "fp": fp, "fn": fn, "tn": tn,
    }  # fmt: skip


def wilson(hits: int, total: int) -> list[float]:
    """Wilson 95 % interval of a rate, `[low, high]`; `[0, 1]` where nothing was counted."""
    if total == 0:
        return [0.0, 1.0]
    interval = binomtest(hits, total).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def rate_of(hits: int, total: int) -> dict:
    """A rate with its interval: `rate` (0 where nothing was counted), `interval`, `hits`, `total`."""
    return {"rate": hits / total if total else 0.0, "interval": wilson(hits, total), "hits": hits, "total": total}


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
    """`confusion` plus `intervals`: 95 % `[low, high]` for every rate, None for an F1 of 0 or 1."""
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


def gap_closed(f1_steered: float, f1_baseline: float, f1_probe: float) -> float:
    """Share of the way from the baseline's F1 to the probe's that steering goes; 0 where there is no gap.

    >>> round(gap_closed(0.6185, 0.5285, 0.8054), 2)
    0.33
    """
    gap = f1_probe - f1_baseline
    return (f1_steered - f1_baseline) / gap if gap > 0 else 0.0


def mean_and_std(values) -> dict[str, float]:
    """`mean` and sample standard deviation `std` of repeated measurements; 0 of a single one."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def call_validity(answers: list[str], tools: dict[str, Tool], markers: tuple[str, str]) -> dict:
    """Rates over answers that hold a trigger: `format` (parses), `tool` (known name), `arguments` (fit the schema).

    Each is a `rate_of` the triggered answers. An answer counts by its first call.
    """
    triggered = [answer for answer in answers if markers[0] in answer]
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


def trigger_test(tokenizer, trigger: str) -> Callable[[list[int]], bool]:
    """A test of generated ids for the trigger: by id where it is one token, else in the decoded text."""
    ids = tokenizer(trigger, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return lambda generated: ids[0] in generated
    return lambda generated: trigger in tokenizer.decode(generated, skip_special_tokens=False)


def closing_test(tokenizer, model, profile: Profile) -> Callable[[list[int]], bool]:
    """A test whether generated ids are a finished answer: end of turn, a closed call, or words at their limit."""
    ends = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    texts = [text for text in (profile.call_end, profile.turn_end) if text]
    window = 3 + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)  # neighbours merge
    triggered = trigger_test(tokenizer, profile.trigger)

    def closed(ids: list[int]) -> bool:
        recent = tokenizer.decode(ids[-window:], skip_special_tokens=False)
        if ids[-1] in ends or any(text in recent for text in texts):
            return True
        return len(ids) >= profile.words_limit and not triggered(ids)

    return closed
