"""Evaluation: counts, intervals and tests against values worked out elsewhere."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import f1_score

from asa.data.scores import auc_of, confusion
from asa.evaluation.metrics import (
    f1_interval,
    gap_closed,
    mcnemar,
    mean_and_std,
    rate_of,
    trigger_metrics,
    why_missing,
    wilson,
)
from asa.evaluation.validity import call_validity
from asa.models.answers import closing_test, trigger_test
from asa.models.profiles import EMBEDDED
from asa.tools.definitions import Tool
from asa.tools.parser import parse_tool_calls

MARKERS = ("<|tool_call_start|>", "<|tool_call_end|>")


def test_confusion_worked_out_by_hand():
    """3 true, 1 false call; 2 missed, 4 rightly left: every count differs, so none can be swapped."""
    called = [True] * 3 + [True] * 1 + [False] * 2 + [False] * 4
    labels = [1] * 3 + [0] * 1 + [1] * 2 + [0] * 4
    assert confusion(called, labels) == {
        "precision": 3 / 4, "recall": 3 / 5, "f1": 6 / 9, "fpr": 1 / 5, "accuracy": 7 / 10,
        "tp": 3, "fp": 1, "fn": 2, "tn": 4,
    }  # fmt: skip
    assert confusion(np.array(called), np.array(labels)) == confusion(called, labels)


RATES = ("precision", "recall", "f1", "fpr", "accuracy")
NO_RECALL, NO_FPR, NO_PRECISION, NO_F1 = (
    "No request with need of a tool, so there is no recall.",
    "No request without need of a tool, so there is no FPR.",
    "No call, so there is no precision.",
    "No call and no request with need of a tool, so there is no F1.",
)


@pytest.mark.parametrize(
    ("called", "labels", "expected", "why"),
    [
        ([], [], (None, None, None, None, None), ["No request, so there are no rates."]),
        ([False, False], [0, 0], (None, None, None, 0.0, 1.0), [NO_RECALL, NO_PRECISION, NO_F1]),
        ([False, False], [1, 1], (None, 0.0, 0.0, None, 0.0), [NO_FPR, NO_PRECISION]),
        ([False, False], [1, 0], (None, 0.0, 0.0, 0.0, 0.5), [NO_PRECISION]),
        ([True, False], [0, 0], (0.0, None, 0.0, 0.5, 0.5), [NO_RECALL]),
        ([True], [1], (1.0, 1.0, 1.0, None, 1.0), [NO_FPR]),
        ([True, False], [1, 0], (1.0, 1.0, 1.0, 0.0, 1.0), []),
    ],
)
def test_a_rate_without_a_denominator_is_none_and_says_why(called, labels, expected, why):
    """And it has no interval; one that has a denominator has one, but for an F1 of 0 or 1."""
    scores = trigger_metrics(called, labels, seed=0)
    assert tuple(scores[name] for name in RATES) == expected
    assert scores == confusion(called, labels) | {"intervals": scores["intervals"]}
    for name in set(RATES) - {"f1"}:
        assert (scores["intervals"][name] is None) == (scores[name] is None)
    assert scores["intervals"]["f1"] is None
    assert why_missing({"run": scores}) == why


def test_a_reason_names_its_runs_unless_it_is_that_of_all():
    calls, silent = confusion([True, True], [1, 1]), confusion([False, False], [1, 1])
    assert why_missing({"baseline": silent, "probe": calls, "ASA": silent}) == [
        NO_FPR, "baseline, ASA: no call, so there is no precision.",
    ]  # fmt: skip
    assert why_missing({"a": {"f1": None, "fpr": 0.0}, "b": {"f1": 0.0, "fpr": 0.0}}) == [f"a: n{NO_F1[1:]}"]


def test_one_label_only_has_no_auc():
    assert auc_of([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8]) == 1.0
    assert auc_of([1, 1], [0.1, 0.9]) is auc_of([0], [0.5]) is auc_of([], []) is None


def test_the_mean_is_that_of_what_there_is():
    """And it says of how many; a deviation needs two."""
    assert mean_and_std([0.25, 0.75]) == {"mean": 0.5, "std": pytest.approx(0.125**0.5)}
    assert mean_and_std([0.25, None, 0.75]) == {
        "mean": 0.5, "std": pytest.approx(0.125**0.5), "counted": 2, "total": 3,
    }  # fmt: skip
    assert mean_and_std([0.25]) == {"mean": 0.25, "std": None}
    assert mean_and_std([None, None]) == {"mean": None, "std": None, "counted": 0, "total": 2}


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_the_textbooks_intervals(hits, total, low, high):
    assert wilson(hits, total) == pytest.approx([low, high], abs=6e-5)


def test_a_rate_of_nothing_is_none():
    assert wilson(0, 0) is None
    assert rate_of(0, 0) == {"rate": None, "interval": None, "hits": 0, "total": 0}
    assert rate_of(0, 20) == {"rate": 0.0, "interval": wilson(0, 20), "hits": 0, "total": 20}


def runs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return np.where(rng.random(count) < 0.8, labels == 1, labels == 0), labels


@pytest.mark.parametrize("count", [20, 100, 640])
def test_the_f1_interval_contains_the_point_and_shrinks(count):
    called, labels = runs(count, 1)
    low, high = f1_interval(called, labels, seed=0)
    point = f1_score(labels, called)
    assert 0 <= low < point < high <= 1
    assert 1 < (high - low) * np.sqrt(count) < 2.5


def test_the_f1_interval_is_the_middle_95_percent():
    """Resampling requests is drawing the four counts from a multinomial, which is done here instead."""
    called, labels = runs(640, 1)
    counts = [confusion(called, labels)[name] for name in ("tp", "fp", "fn")]
    shares = [*np.array(counts) / 640, 1 - sum(counts) / 640]
    tp, fp, fn, _ = np.random.default_rng(9).multinomial(640, shares, 20_000).T
    expected = np.percentile(2 * tp / (2 * tp + fp + fn), [2.5, 97.5])
    assert f1_interval(called, labels, seed=0) == pytest.approx(expected.tolist(), abs=0.0035)


def test_the_f1_interval_is_seeded():
    called, labels = runs(60, 1)
    assert f1_interval(called, labels, 5) == f1_interval(called, labels, 5)
    assert f1_interval(called, labels, 5) != f1_interval(called, labels, 6)


def test_an_f1_of_0_or_1_has_no_interval():
    """Requests drawn again would all say the same, and an interval without a width that it is certain."""
    labels = np.array([1, 0] * 30)
    assert f1_interval(labels == 1, labels, 0) is None
    assert f1_interval(labels == 0, labels, 0) is None  # calls, but none that is needed
    assert f1_interval([False] * 60, labels, 0) is None
    assert f1_interval([False] * 3, [0] * 3, 0) is None  # nothing called, nothing needed
    low, high = f1_interval([True, *[False] * 59], labels, 0)
    assert low < high


def test_every_rate_gets_the_interval_of_its_own_counts():
    called = [True] * 3 + [True] * 1 + [False] * 2 + [False] * 4
    labels = [1] * 3 + [0] * 1 + [1] * 2 + [0] * 4
    scores = trigger_metrics(called, labels, seed=0)
    assert scores["intervals"] == {
        "precision": wilson(3, 4), "recall": wilson(3, 5), "f1": f1_interval(called, labels, 0), "fpr": wilson(1, 5),
        "accuracy": wilson(7, 10),
    }  # fmt: skip
    assert {name: scores[name] for name in confusion(called, labels)} == confusion(called, labels)


def test_mcnemar_worked_out_by_hand():
    """Only A right once, only B right six times: p = 2 * (1 + 7) / 2**7."""
    labels = np.array([1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    right_a = np.array([1, 0, 0, 0, 0, 0, 0, 1, 1, 0], bool)
    right_b = np.array([0, 1, 1, 1, 1, 1, 1, 1, 1, 0], bool)
    called_a, called_b = (right == (labels == 1) for right in (right_a, right_b))
    found = mcnemar(called_a, called_b, labels)
    assert found == {"only_a": 1, "only_b": 6, "p_value": pytest.approx(0.125)}
    assert mcnemar(called_b, called_a, labels) == {"only_a": 6, "only_b": 1, "p_value": pytest.approx(0.125)}


def test_mcnemar_of_equal_runs_is_no_evidence():
    assert mcnemar([True, False], [True, False], [1, 1]) == {"only_a": 0, "only_b": 0, "p_value": 1.0}
    assert mcnemar([True], [False], [1])["p_value"] == pytest.approx(1.0)
    eight = mcnemar([False] * 8, [True] * 8, [1] * 8)
    assert eight == {"only_a": 0, "only_b": 8, "p_value": pytest.approx(2 / 2**8)}


NUMBERS = {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}
TOOLS = {"calculator": Tool("calculator", "Calculates", NUMBERS, "math")}


def called(body: str) -> str:
    return f"{MARKERS[0]}{body}{MARKERS[1]}"


def test_call_validity_counts():
    """Answers without a trigger do not count; each stage is a subset of the one before."""
    answers = [
        "Four.",
        'calculator(expression="2+2")',  # no trigger
        called('[calculator(expression="2+2")]') + "Four.",
        MARKERS[0] + '[calculator(expression="3")]',  # cut off but whole
        called("[calculator(expression=7)]"),  # wrong type
        called("[calculator()]"),  # required one missing
        called('[abacus(expression="2+2")]'),  # unknown tool
        called("calculate two and two"),  # does not parse
        called("[]"),  # no call in it
        called('[abacus(x=1), calculator(expression="1")]'),  # counts by its first call
    ]
    found = call_validity(answers, TOOLS, MARKERS)
    assert list(found) == ["format", "tool", "arguments"]
    assert {name: (rate["hits"], rate["total"]) for name, rate in found.items()} == {
        "format": (6, 8), "tool": (4, 8), "arguments": (2, 8),
    }  # fmt: skip
    assert found["tool"]["rate"] == 0.5 and found["tool"]["interval"] == wilson(4, 8)


def test_call_validity_knows_other_markers():
    answers = ['<tool_call>[calculator(expression="2")]</tool_call>', called('[calculator(expression="2")]')]
    found = call_validity(answers, TOOLS, ("<tool_call>", "</tool_call>"))
    assert (found["arguments"]["hits"], found["arguments"]["total"]) == (1, 1)


def test_call_validity_without_calls_divides_by_nothing():
    for rate in call_validity(["Four."], TOOLS, MARKERS).values():
        assert rate == {"rate": None, "interval": None, "hits": 0, "total": 0}


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_special_trigger_is_looked_for_by_its_id(tiny_tokenizer):
    test = trigger_test(tiny_tokenizer, MARKERS[0])
    (start,) = ids(tiny_tokenizer, MARKERS[0])
    assert test(ids(tiny_tokenizer, "Sure: " + called("[f()]"))) and test([start])
    assert not test(ids(tiny_tokenizer, "Sure.")) and not test([])
    letters = [number for letter in MARKERS[0] for number in ids(tiny_tokenizer, letter)]
    assert tiny_tokenizer.decode(letters) == MARKERS[0]
    assert not test(letters)  # spelled out it is text, not the token


def test_a_text_trigger_is_looked_for_in_the_decoded_text(tiny_tokenizer):
    trigger = "<tool_call>"
    assert len(ids(tiny_tokenizer, trigger)) > 1
    test = trigger_test(tiny_tokenizer, trigger)
    spelled = [number for letter in trigger for number in ids(tiny_tokenizer, letter)]
    assert test(ids(tiny_tokenizer, f"Sure: {trigger}[f()]")) and test(spelled)
    assert not test(ids(tiny_tokenizer, "<tool call>")) and not test(spelled[:-1]) and not test([])


def model_with_ends(ends) -> SimpleNamespace:
    return SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))


def profile(call_end: str, words_limit: int = 1000):
    """What `closing_test` needs of a profile, with the text trigger."""
    return replace(EMBEDDED, trigger="<tool_call>", call_end=call_end, words_limit=words_limit)


@pytest.mark.parametrize("ends", ["one", "several", "none"])
def test_an_answer_is_closed_at_the_end_of_the_turn(tiny_tokenizer, ends):
    """The tokenizer's end counts always, the model's own ends too."""
    (other,) = ids(tiny_tokenizer, "<|endoftext|>")
    eos = tiny_tokenizer.eos_token_id
    model = model_with_ends({"one": other, "several": [eos, other], "none": None}[ends])
    closed = closing_test(tiny_tokenizer, model, profile(MARKERS[1]))
    words = ids(tiny_tokenizer, "It is four.")
    assert not closed(words)
    assert closed([*words, eos])
    assert closed([*words, other]) == (ends != "none")
    assert not closed([eos, *words])  # only the last token ends a turn


def test_an_answer_is_closed_at_the_profiles_end_of_a_turn(tiny_tokenizer):
    """A pretrained model has no token for it and would go on with the next turn."""
    words = ids(tiny_tokenizer, "It is four.")
    for end in ("\n", "\nUser:"):
        closed = closing_test(tiny_tokenizer, model_with_ends(None), replace(profile("</tool_call>"), turn_end=end))
        answer = [*words, *ids(tiny_tokenizer, end)]
        assert closed(answer) and closed([*answer, *ids(tiny_tokenizer, " and")])
        assert not any(closed(answer[:size]) for size in range(1, len(answer)))
        assert closed(ids(tiny_tokenizer, "[f()]</tool_call>"))
        assert not closing_test(tiny_tokenizer, model_with_ends(None), profile("</tool_call>"))(answer)


@pytest.mark.parametrize("end", ["</tool_call>", MARKERS[1]])
def test_an_answer_is_closed_where_its_call_is(tiny_tokenizer, end):
    closed = closing_test(tiny_tokenizer, model_with_ends(None), profile(end))
    answer = ids(tiny_tokenizer, f'<tool_call>[f(x="a")]{end}')
    assert closed(answer)
    assert not any(closed(answer[:size]) for size in range(1, len(answer)))


def test_a_closing_text_that_merges_with_its_neighbours_is_seen(tiny_tokenizer):
    closed = closing_test(tiny_tokenizer, model_with_ends(None), profile("</tool_call>"))
    for tail in ("", ".", " and", '"'):
        assert closed(ids(tiny_tokenizer, f"[f()]</tool_call>{tail}"))


def test_words_are_cut_at_their_limit_but_a_call_is_not(tiny_tokenizer):
    words, call = ids(tiny_tokenizer, "It is four. " * 9), ids(tiny_tokenizer, "It is <tool_call>[f(x=1, y=2, z=3)")
    assert len(words) > len(call) > 14
    closed = closing_test(tiny_tokenizer, model_with_ends(None), profile("</tool_call>", words_limit=len(call) - 1))
    limit = len(call) - 1
    assert [closed(words[:size]) for size in (limit - 1, limit, limit + 1)] == [False, True, True]
    assert not closed(call[:limit]) and not closed(call)


def test_a_special_trigger_keeps_a_long_call_open(tiny_tokenizer):
    special = replace(EMBEDDED, trigger=MARKERS[0], call_end=MARKERS[1], words_limit=3)
    closed = closing_test(tiny_tokenizer, model_with_ends(None), special)
    assert not closed(ids(tiny_tokenizer, MARKERS[0] + "[f(x=1"))
    assert closed(ids(tiny_tokenizer, "[f(x=1"))


def test_gap_closed():
    """Half of the way, all of it, the wrong way, and no gap to close."""
    assert gap_closed(0.6, 0.4, 0.8) == pytest.approx(0.5)
    assert gap_closed(0.8, 0.4, 0.8) == pytest.approx(1.0)
    assert gap_closed(0.3, 0.4, 0.8) == pytest.approx(-0.25)
    assert gap_closed(0.9, 0.4, 0.8) == pytest.approx(1.25)
    assert gap_closed(0.6, 0.8, 0.8) is gap_closed(0.6, 0.9, 0.8) is None
    assert gap_closed(None, 0.4, 0.8) is gap_closed(0.6, None, 0.8) is gap_closed(0.6, 0.4, None) is None
    assert gap_closed(0.0, 0.0, 0.5) == 0.0  # a gap of which nothing is closed


CALL = '[calculator(expression="2")]'


@pytest.mark.parametrize("markers", [MARKERS, ("<tool_call>", "</tool_call>")], ids=["token", "text"])
@pytest.mark.parametrize(
    ("answer", "opened", "speaks"),
    [
        ("{call}", "", True),
        ("<think>{call}</think>Two.", "", False),
        ("<think>{start} or not</think>Two.", "", False),
        ("{call}</think>Two.", "", False),  # the prompt opened the block
        ("{call}</think>Two.", "<think>", False),
        ("<think>{call}", "", False),
        ("{call}", "<think>", False),
        ("<think>{call}</think>{call}", "", True),
        ("{call}</think>{call}", "<think>", True),
        ("hm</think>{call}<think>{call}</think>", "", True),
        ("<think>a</think>Two.<think>{call}</think>", "", False),
    ],
)
def test_what_is_thought_is_neither_a_call_nor_its_end(tiny_tokenizer, markers, answer, opened, speaks):
    """Trigger test, closing test, validity and parser say the same of every answer."""
    profile = replace(EMBEDDED, trigger=markers[0], call_end=markers[1], words_limit=1000)
    text = answer.format(call=f"{markers[0]}{CALL}{markers[1]}", start=markers[0])
    assert trigger_test(tiny_tokenizer, markers[0], opened)(ids(tiny_tokenizer, text)) == speaks
    closed = closing_test(tiny_tokenizer, model_with_ends(None), profile, opened)
    said = ids(tiny_tokenizer, text)
    assert closed(said) == (speaks and not text.endswith("</think>"))
    assert call_validity([opened + text], TOOLS, markers)["arguments"]["total"] == speaks
    assert [call.name for call in parse_tool_calls(opened + text, markers=markers)] == ["calculator"] * speaks


def test_tags_that_are_tokens_are_seen(tiny_tokenizer):
    """As thinking models have them."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    assert len(ids(tokenizer, "<think>")) == 1
    test = trigger_test(tokenizer, MARKERS[0])
    assert not test(ids(tokenizer, f"<think>{called(CALL)}</think>Two."))
    assert test(ids(tokenizer, f"<think>{called(CALL)}</think>{called(CALL)}"))


def test_an_answer_without_the_trigger_is_not_decoded(tiny_tokenizer, monkeypatch):
    """The test runs at every step."""
    test, words = trigger_test(tiny_tokenizer, MARKERS[0]), ids(tiny_tokenizer, "It is four.")
    monkeypatch.setattr(tiny_tokenizer, "decode", None)
    assert not test(words)


@pytest.mark.parametrize("opened", ["", "<think>"])
def test_thoughts_are_not_cut_at_the_limit_of_words(tiny_tokenizer, opened):
    """Only what is said counts; without the tags nothing changes."""
    thought, words = "hm, let me see. " * 9, ids(tiny_tokenizer, "It is four.")
    closed = closing_test(tiny_tokenizer, model_with_ends(None), profile("</tool_call>", len(words)), opened)
    thinking = ids(tiny_tokenizer, ("" if opened else "<think>") + thought)
    behind = [*thinking, *ids(tiny_tokenizer, "</think>")]
    assert len(thinking) > 2 * len(words)
    assert not closed(thinking) and not closed(behind)
    assert [closed([*behind, *words[:size]]) for size in (len(words) - 1, len(words))] == [False, True]
