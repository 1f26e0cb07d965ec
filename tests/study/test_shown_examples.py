"""Shown examples: under every prompt the recipe anew, against plain forward passes of that very prompt."""

from collections import Counter

import numpy as np
import pytest
from conftest import last_token

from asa.data.requests import load_requests
from asa.data.scores import confusion
from asa.data.splits import Split
from asa.method.directions import ACTION, DIRECTIONS
from asa.models.profiles import EMBEDDED
from asa.models.prompts import Prompter
from asa.study.ladder import with_examples_shown
from asa.study.robustness_sections import shown_section
from asa.study.shown_examples import try_shown_examples
from asa.tools.definitions import domains_of, load_tools

pytestmark = pytest.mark.slow

LAYER, COUNTS = 3, [0, 2, 4, 8]
TOOLS = load_tools("data/tools.json")
NAMES = domains_of(TOOLS)


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    """A few hand-written requests of every domain and label."""
    requests = load_requests("data/requests.jsonl", NAMES)
    cells = [[r for r in requests if (r.domain, r.label) == (name, label)] for name in NAMES for label in (0, 1)]
    rows = {"cal": slice(0, 3), "train": slice(3, 5), "valid": slice(5, 8), "test": slice(8, 12)}
    return {split: Split([r for cell in cells for r in cell[part]], []) for split, part in rows.items()}


@pytest.fixture(scope="module")
def said(tiny_llama, tiny_tokenizer, splits) -> dict[int, list[int]]:
    """Examples shown -> the model's next tokens on TEST, by a plain forward pass of every prompt."""
    found = {}
    for count in COUNTS:
        shown = Prompter(tiny_tokenizer, *with_examples_shown(EMBEDDED, TOOLS, count))
        found[count] = [int(last_token(tiny_llama, shown.ids(r.text))[1].argmax()) for r in splits["test"].requests]
    return found


@pytest.fixture(scope="module")
def trigger(said) -> int:
    """What the model says about every other time: it says the real trigger nowhere."""
    counts = Counter(token for tokens in said.values() for token in tokens)
    return min(counts, key=lambda token: abs(counts[token] - counts.total() / 2))


@pytest.fixture(scope="module")
def found(tiny_llama, tiny_tokenizer, splits, trigger) -> list[dict]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prompter, "_find_trigger", lambda self: trigger)
        main = Prompter(tiny_tokenizer, EMBEDDED, TOOLS)
        four = {name: Split(of.requests, [main.ids(r.text) for r in of.requests]) for name, of in splits.items()}
        layers = dict.fromkeys(DIRECTIONS, LAYER)
        return try_shown_examples(tiny_llama, main, four, NAMES, layers, ACTION, (0.1, 1.0))


def test_every_prompt_is_scored_by_what_the_model_does_behind_it(said, trigger, splits, found):
    assert [of["examples"] for of in found] == COUNTS
    for of in found:
        called = np.array(said[of["examples"]]) == trigger
        scores = confusion(called, splits["test"].labels)
        assert of["baseline"] == {name: scores[name] for name in ("f1", "fpr")}
    assert len({of["baseline"]["fpr"] for of in found}) > 1, "the prompts make no difference here"


def test_every_prompt_has_settings_of_its_own(found):
    for of in found:
        assert of.keys() == {"examples", "baseline", "probe", *DIRECTIONS}
        assert all(of[kind]["layer"] == LAYER for kind in DIRECTIONS)
    assert len({(of[ACTION]["dose"], of[ACTION]["beta"], of[ACTION]["tau"]) for of in found}) > 1


def test_the_report_has_a_row_a_prompt(found):
    *_, table = shown_section(found, ACTION)
    rows = [line.split("|")[1:-1] for line in table.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == COUNTS
    assert [float(row[2]) for row in rows] == [round(of["baseline"]["fpr"], 3) for of in found]
    assert shown_section(None, ACTION) == []
