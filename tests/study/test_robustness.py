"""Robustness, on a made-up model of which the right answer is known.

Its state has an axis for what it is about to do, one for what the request needs, and one a domain. It calls where the
first is positive, so only a push along that axis changes anything; the need is read without error.
"""

import json
from dataclasses import replace
from statistics import median_low
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PREFIX
from helpers import assert_near, full_forwards, plain_and_true
from truth import allowed_error

from asa.data.duplicates import near_duplicate_groups
from asa.data.requests import Request
from asa.data.scores import confusion
from asa.data.splits import split_requests
from asa.engine.engine import Engine
from asa.engine.states import Reading, read_prompts
from asa.method.directions import ACTION, DIRECTIONS, NECESSITY, mixed
from asa.method.steering import gates
from asa.method.tuning import BETAS, DOSES, Setting
from asa.study import labels as labels_of
from asa.study import robustness
from asa.study.labels import flip_labels, keyword_labels, try_keyword_labels, try_wrong_labels
from asa.study.robustness import (
    domains_left_out,
    hit_target_fpr,
    other_splits,
    resplit,
    run_robustness,
    score_the_probe,
    threshold_for,
)
from asa.study.trials import Pool, p_needed, run_trial, scored_runs, steered, summary, take_part

TRIGGER, OTHER, LAYER, HIDDEN = 3, 0, 1, 6
NAMES = ["math", "code", "search"]
CELL = 40  # requests a domain and label: 8 in CAL, TRAIN and VALID, 16 in TEST
LEAST = 5  # 1 in CAL, TRAIN and VALID, 2 in TEST
WORDS = {("math", 1): "calculate", ("code", 1): "python", ("search", 1): "latest"}


class FakeBatch:
    """A model that calls a tool where the state's first coordinate is above 0; it notes how many rows it replayed.

    At the other layer the second coordinate, the need, is added to it, so that a push along the need changes calls.
    """

    replayed: list[int] = []  # noqa: RUF012

    def __init__(self, rows):
        self.rows = rows
        self.own_mask = torch.ones(len(rows), 1, dtype=torch.bool)

    def select(self, places):
        return FakeBatch([self.rows[place] for place in places])

    def replay(self, layer, hidden):
        self.replayed.append(len(hidden))
        logits = torch.zeros(len(hidden), 5)
        logits[:, TRIGGER] = hidden[:, 0] if layer == LAYER else hidden[:, :2].sum(dim=1)
        return logits


def make_requests(names: list[str], cell: int) -> list[Request]:
    """Requests of words of their own; the first two of a cell are near-duplicates."""
    requests = []
    for name in names:
        for label in (0, 1):
            for number in range(cell):
                own = " ".join(f"{name[0]}{label}n{max(number, 1)}n{word}" for word in range(9))
                text = f"{own} {WORDS.get((name, label), 'plain')} {'twin' if number == 0 else ''}"
                requests.append(Request(text, label, name, f"made:{len(requests)}"))
    return requests


def make_pool(
    reverse: str = "", names: list[str] = NAMES, cell: int = CELL, **changes
) -> tuple[Pool, dict[str, np.ndarray]]:
    """A pool of `cell` requests a cell and its split; the need lies the other way round in the domain `reverse`."""
    splits = split_requests(make_requests(names, cell), 0)
    requests = [request for rows in splits.values() for request in rows]
    ends = np.cumsum([len(rows) for rows in splits.values()])
    rows = dict(zip(splits, np.split(np.arange(len(requests)), ends[:-1]), strict=True))
    labels, domains = np.array([r.label for r in requests]), np.array([r.domain for r in requests])
    rng = np.random.default_rng(0)
    states = np.zeros((len(requests), 2, HIDDEN), np.float32)
    here = states[:, LAYER]
    here[:, 0] = rng.choice([-1, 1], len(requests))
    here[:, 1] = np.where((labels == 1) != (domains == reverse), 3, -3) + 0.1 * rng.standard_normal(len(requests))
    here[np.arange(len(requests)), 2 + np.array([NAMES.index(name) for name in domains])] = 5
    states[:, OTHER] = here * np.array([4, 1, 1, 1, 1, 1])
    log_odds = here[:, 0] + 0.01 * here[:, 1]  # as in a real model, no two are alike
    reading = Reading(states, here[:, 0] > 0, log_odds)
    order = rng.permutation(len(requests))
    batches = [FakeBatch(part.tolist()) for part in np.array_split(order, 3)]
    options = {"layers": dict.fromkeys(DIRECTIONS, LAYER), "kind": ACTION, "strength": 0.1, "own": 4.0}
    options |= {"trigger_id": TRIGGER} | changes
    return Pool(requests, labels, domains, reading, batches, names, **options), rows


@pytest.fixture(scope="module")
def made():
    """Pool, split, VALID, TEST and the committed trial."""
    pool, rows = make_pool()
    valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
    return pool, rows, valid, test, run_trial(pool, rows["cal"], rows["train"], valid, test, pool.labels, DIRECTIONS)


def test_a_part_is_its_rows_in_their_order_and_costs_no_more(made):
    pool, rows, *_ = made
    wanted = rows["test"][[5, 0, 3]]
    part = take_part(pool, wanted)
    assert sorted(row for batch in part.batches for row in batch.rows) == [0, 1, 2]
    assert np.array_equal(part.reading.states, pool.reading.states[wanted])
    reader = SimpleNamespace(domains=NAMES, mean_norm=1.0, route=lambda states: np.zeros(len(states), int))
    directions = dict.fromkeys([*NAMES, "global"], np.eye(HIDDEN, dtype=np.float32)[0])
    FakeBatch.replayed.clear()
    push = Setting(ACTION, LAYER, 9.0, 0.0, 0.5)
    recipe = SimpleNamespace(
        readers=lambda layer: {LAYER: reader}[layer], vectors=lambda setting: mixed(directions, setting.beta, NAMES)
    )
    called = steered(pool.trigger_id, part, recipe, push, np.array([1, -1, 0]))
    assert called.tolist() == [True, False, bool(pool.reading.called[wanted[2]])]
    assert sum(FakeBatch.replayed) == 3


def test_a_part_of_a_real_batch_replays_as_the_whole(tiny_model, prompts):
    """Rows far apart, of several lengths, in an order of their own."""
    engine = Engine(tiny_model, prompts[0][:PREFIX])
    reading, batches = read_prompts(engine, prompts, TRIGGER, "test")
    pool = Pool([], np.array([]), np.array([]), reading, batches, [], {}, ACTION, 1.0, 0.0, TRIGGER)
    wanted = np.array([7, 2, 9, 4])
    part = take_part(pool, wanted)

    def logits(of, states):
        out = torch.zeros(len(states), tiny_model.config.vocab_size)
        for batch in of:
            out[batch.rows] = batch.replay(1, torch.from_numpy(states[batch.rows, 1]))
        return out

    whole = logits(batches, reading.states)[wanted]
    asked = [prompts[row] for row in wanted]
    plain, true = plain_and_true(tiny_model, lambda model: full_forwards(model, asked).logits)
    for found in (logits(part.batches, part.reading.states), whole):
        assert_near(found, true, allowed_error((plain, true)))


def test_only_the_direction_that_the_model_acts_on_closes_the_gap(made):
    """The probe reads the need in both; what counts is the model after the push."""
    pool, _, _, test, trial = made
    runs = scored_runs(trial, pool.labels[test.rows])
    assert runs["probe"] == {"f1": 1.0, "fpr": 0.0}
    assert runs[ACTION]["f1"] == runs[ACTION]["gap_closed"] == 1.0 and runs[ACTION]["fpr"] == 0.0
    assert runs[NECESSITY]["f1"] == runs["baseline"]["f1"] < 0.7 and runs[NECESSITY]["gap_closed"] == 0.0


def test_each_direction_is_read_tuned_and_pushed_at_its_own_layer(made):
    """The paper's direction, at a layer where it does something; the probe alone stays that of the chosen direction."""
    pool, rows = make_pool(layers={NECESSITY: OTHER, ACTION: LAYER})
    pool.reading.states[rows["test"], OTHER, 1] *= -1  # there TEST is read wrongly
    valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
    trial = run_trial(pool, rows["cal"], rows["train"], valid, test, pool.labels, DIRECTIONS)
    runs = scored_runs(trial, pool.labels[test.rows])
    assert (runs[NECESSITY]["layer"], runs[ACTION]["layer"]) == (OTHER, LAYER)
    assert trial.settings[NECESSITY].f1 == 1.0 and runs[NECESSITY]["f1"] < 0.1  # on VALID it was right
    assert runs["probe"]["f1"] == runs[ACTION]["f1"] == 1.0
    target = hit_target_fpr(pool, valid, test, trial)
    for kind, layer in pool.layers.items():
        p_valid = p_needed(valid, trial.recipe, layer)
        assert target["thresholds"][kind] == threshold_for(p_valid, pool.labels[valid.rows], 0.05)
    assert target["test"][ACTION] == target["test"]["probe"] and target["test"]["probe"]["f1"] > 0.9
    assert target["test"][NECESSITY]["f1"] < 0.1


def test_a_trial_sees_neither_the_labels_nor_the_calls_of_test(made):
    pool, rows, valid, test, trial = made
    wrong, called = pool.labels.copy(), pool.reading.called.copy()
    wrong[rows["test"]] = 1 - wrong[rows["test"]]
    called[rows["test"]] = ~called[rows["test"]]
    changed = replace(pool, reading=Reading(pool.reading.states, called, pool.reading.log_odds))
    again = run_trial(changed, rows["cal"], rows["train"], valid, test, wrong, DIRECTIONS)
    assert again.settings == trial.settings
    assert all(np.array_equal(again.called[run], trial.called[run]) for run in trial.called)


def test_the_paper_s_direction_is_that_of_the_labels_given(made):
    """Turned labels turn it; the action direction, which uses none, stays."""
    pool, rows, valid, test, trial = made
    turned = run_trial(pool, rows["cal"], rows["train"], valid, test, 1 - pool.labels, DIRECTIONS)
    before, after = ({kind: of.recipe.directions(kind, LAYER) for kind in DIRECTIONS} for of in (trial, turned))
    for name in NAMES:
        assert np.allclose(after[NECESSITY][name], -before[NECESSITY][name])
        assert np.array_equal(after[ACTION][name], before[ACTION][name])


def test_other_splits_use_every_row_once_and_part_no_near_duplicates(made):
    pool, rows, *_ = made
    splits = other_splits(pool, 0)
    assert len(splits) == robustness.RESPLITS
    groups = [group for group in near_duplicate_groups([r.text for r in pool.requests]) if len(group) > 1]
    assert len(groups) == 2 * len(NAMES)
    for split in splits.values():
        assert sorted(np.concatenate(list(split.values()))) == list(range(len(pool.requests)))
        side = {row: name for name, places in split.items() for row in places}
        assert all(len({side[row] for row in group}) == 1 for group in groups)
        for name, places in split.items():
            cells = {(pool.domains[row], pool.labels[row]) for row in places}
            assert len(places) == len(rows[name]) and len(cells) == 2 * len(NAMES)
    tests = [tuple(sorted(split["test"])) for split in splits.values()]
    assert len(set(tests)) == len(tests) and tuple(rows["test"]) not in tests


def test_over_splits_gives_every_trial_and_their_mean_and_deviation(made):
    results = resplit(*made[:2], 0)
    assert len(results["seeds"]) == len(results["trials"]) == robustness.RESPLITS
    f1 = [trial["baseline"]["f1"] for trial in results["trials"]]
    assert len(set(f1)) > 1
    assert results["summary"]["baseline"]["f1"] == {"mean": np.mean(f1), "std": np.std(f1, ddof=1)}
    assert results["summary"][ACTION]["gap_closed"] == {"mean": 1.0, "std": 0.0}
    shared = [np.isin(split["test"], made[1]["valid"]).mean() for split in other_splits(made[0], 0).values()]
    assert results["seen"] == pytest.approx(np.mean(shared)) and 0.1 < results["seen"] < 0.3


def test_a_seed_that_cannot_be_split_is_passed_over(made, monkeypatch):
    def refusing(requests, seed):
        if seed != 3:
            raise robustness.RequestsError("no")
        return split_requests(requests, seed)

    monkeypatch.setattr(robustness, "split_requests", refusing)
    assert list(other_splits(made[0], 0)) == [3]
    monkeypatch.setattr(robustness, "RESPLITS", 0)
    assert resplit(*made[:2], 0) is None


def test_one_trial_has_no_deviation():
    run = {"baseline": {"f1": 0.5, "fpr": 0.1}}
    assert summary([run], ()) == {"baseline": {"f1": {"mean": 0.5, "std": None}, "fpr": {"mean": 0.1, "std": None}}}


def test_trials_without_a_gap_are_left_out_of_its_mean():
    """And it is said how many have one."""
    trials = [{"action": {"f1": 0.5, "fpr": None, "gap_closed": gap}} for gap in (None, 0.25, 0.75)]
    assert summary(trials, ("action",))["action"] == {
        "f1": {"mean": 0.5, "std": 0.0}, "fpr": {"mean": None, "std": None, "counted": 0, "total": 3},
        "gap_closed": {"mean": 0.5, "std": pytest.approx(0.125**0.5), "counted": 2, "total": 3},
    }  # fmt: skip


def test_runs_against_one_label_only_have_no_fpr_and_no_gap(made):
    """As keywords may give all of TEST one label."""
    *_, test, trial = made
    runs = scored_runs(trial, np.ones(len(test.rows), int))
    assert {run: of["fpr"] for run, of in runs.items()} == dict.fromkeys(runs)
    assert all(of["f1"] > 0 for of in runs.values())
    alike = scored_runs(trial, np.zeros(len(test.rows), int))
    assert all(of["f1"] in (0.0, None) for of in alike.values())
    assert {alike[kind]["gap_closed"] for kind in (ACTION, NECESSITY)} == {None}


def test_a_domain_left_out_is_read_as_the_others_are(made):
    """Its need lies the other way round: known, its own probe reads it; unknown, every request is pushed wrongly."""
    pool, rows = make_pool(reverse="search")
    valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
    committed = run_trial(pool, rows["cal"], rows["train"], valid, test, pool.labels, DIRECTIONS)
    results = domains_left_out(pool, rows, committed)
    assert list(results) == NAMES
    assert results["search"]["all_domains"][ACTION] == {"f1": 1.0, "fpr": 0.0}
    left_out = results["search"]["left_out"]
    assert (left_out[ACTION]["f1"], left_out[ACTION]["fpr"]) == (0.0, 1.0)
    assert left_out["baseline"] == results["search"]["all_domains"]["baseline"]  # the same rows
    alike = domains_left_out(made[0], made[1], made[4])  # here the need lies alike in all
    assert all(alike[name]["left_out"][ACTION]["f1"] == 1.0 for name in NAMES)


def test_flipping_turns_the_share_of_every_cell_and_nothing_else(made):
    pool, rows, *_ = made
    chosen = [rows["cal"], rows["train"]]
    labels = flip_labels(pool, chosen, 0.25, 0)
    wrong = labels != pool.labels
    assert set(np.flatnonzero(wrong)) <= set(np.concatenate(chosen))
    for name in NAMES:
        for label in (0, 1):
            assert wrong[(pool.domains == name) & (pool.labels == label)].sum() == 4  # of 8 + 8
    assert np.array_equal(labels, flip_labels(pool, chosen, 0.25, 0))
    assert not np.array_equal(labels, flip_labels(pool, chosen, 0.25, 1))


def test_flipping_leaves_both_labels_in_every_domain_of_every_split():
    """Of the smallest set's cells one row of three is turned round, each in some split."""
    pool, rows = make_pool(cell=LEAST)
    splits = [rows[split] for split in ("cal", "train", "valid")]
    turned = []
    for seed in range(20):
        labels = flip_labels(pool, splits, 0.34, seed)
        turned.append(int((labels != pool.labels).sum()))
        for split in splits:
            assert len({(pool.domains[row], labels[row]) for row in split}) == 2 * len(NAMES)
    assert min(turned) == 0 < max(turned)  # turned back, unless both rows of a domain in a split were turned


def test_wrong_labels_are_wrong_in_all_but_test(made, monkeypatch):
    """All wrong, the model does the opposite of what it should; TEST says so, since it stays right."""
    pool, rows, valid, test, _ = made
    monkeypatch.setattr(labels_of, "FLIPS", (0.05, 1.0))
    few, all_wrong = try_wrong_labels(pool, rows, valid, test, 0)
    assert few["share"] == pytest.approx(1 / 24) and len(few["trials"]) == labels_of.FLIP_SEEDS  # 1 of a cell's 24
    assert few["summary"][ACTION]["f1"]["mean"] > 0.9
    assert all_wrong["summary"][ACTION]["f1"]["mean"] == 0.0 and all_wrong["summary"]["probe"]["fpr"]["mean"] == 1.0
    assert all_wrong["trials"][0]["baseline"] == few["trials"][0]["baseline"]


def test_keywords_guess_by_the_requests_own_domain():
    texts = {
        "math": ("Calculate 3 + 4", "Why do people like prime numbers?"),
        "code": ("Run this Python snippet", "Name a famous inventor"),
        "search": ("the latest news from Oslo", "Write a poem on rain"),
        "translation": ("Translate 'good night' into Welsh", "Is Welsh hard to learn?"),
    }
    for domain, (tool, words) in texts.items():
        requests = [Request(tool, 1, domain, ""), Request(words, 0, domain, "")]
        assert keyword_labels(requests).tolist() == [1, 0]
    assert keyword_labels([Request("Run this Python snippet", 1, "translation", "")]).tolist() == [0]


def test_keyword_labels_are_compared_with_annotations(made, monkeypatch):
    """A guesser that is right in two domains and always wrong in the third."""
    pool, rows, valid, test, committed = made
    exact = try_keyword_labels(pool, rows, valid, test, committed)
    assert exact["agreement"] == {"all": 1.0, "math": 1.0, "code": 1.0, "search": 1.0} and exact["kappa"] == 1.0
    monkeypatch.setitem(labels_of.KEYWORDS, "search", "plain")
    wrong = try_keyword_labels(pool, rows, valid, test, committed)
    assert wrong["agreement"] == {"all": pytest.approx(2 / 3), "math": 1.0, "code": 1.0, "search": 0.0}
    assert wrong["kappa"] == pytest.approx(1 / 3)
    on = {
        source: {truth: runs[ACTION]["f1"] for truth, runs in of.items()} for source, of in wrong["fitted_on"].items()
    }
    assert on["annotations"] == {"against_keywords": pytest.approx(2 / 3), "against_annotations": 1.0}
    assert on["keywords"] == {"against_keywords": 1.0, "against_annotations": pytest.approx(2 / 3)}


def test_keywords_that_say_nothing_are_left_out(made, monkeypatch):
    monkeypatch.setitem(labels_of.KEYWORDS, "search", "never")
    assert try_keyword_labels(*made) == {"one_label": ["search"]}
    monkeypatch.delitem(labels_of.KEYWORDS, "search")
    assert try_keyword_labels(*made) == {"no_keywords": ["search"]}


def test_the_threshold_is_the_smallest_that_keeps_the_rate():
    p = np.array([0.1, 0.4, 0.6, 0.7, 0.65, 0.9])
    labels = np.array([0, 0, 0, 0, 1, 1])
    for rate, pushed_up in ((0.0, 0), (0.25, 1), (0.49, 1), (0.5, 2), (1.0, 4)):
        threshold = threshold_for(p, labels, rate)
        assert ((p >= threshold) & (labels == 0)).sum() == pushed_up
    assert threshold_for(p, labels, 0.25) == pytest.approx(0.6)  # 0.65, which needs a tool, stays above
    tied = np.array([0.8, 0.8, 0.2])
    assert (tied >= threshold_for(tied, np.zeros(3), 0.34)).sum() == 0  # both or none


def test_the_target_rate_is_met_on_valid_and_the_model_follows_on_test(made):
    """The action direction does what the threshold says; the necessity direction leaves the model its own rate."""
    pool, _, valid, test, committed = made
    results = hit_target_fpr(pool, valid, test, committed)
    assert 0 < results["valid"]["probe"]["fpr"] <= results["target_fpr"] == 0.05
    p_valid = p_needed(valid, committed.recipe, LAYER)
    assert results["thresholds"] == dict.fromkeys(DIRECTIONS, threshold_for(p_valid, pool.labels[valid.rows], 0.05))
    assert results["test"][ACTION] == results["test"]["probe"]
    assert results["test"][NECESSITY]["fpr"] == confusion(test.reading.called, pool.labels[test.rows])["fpr"] > 0.3
    assert sum(row["count"] for row in results["reliability"]["VALID"]) == len(valid.rows)


def test_scoring_the_probe_claims_what_the_model_does_not_do(made):
    """At no tied setting, since the paper's direction changes no call here."""
    pool, _, valid, test, committed = made
    results = score_the_probe(pool, valid, test, committed)
    baseline = confusion(test.reading.called, pool.labels[test.rows])
    assert results["claimed"]["test"] == {"f1": 1.0, "fpr": 0.0}
    assert results["tied"] == len(DOSES) * len(BETAS) and list(results["real"]) == ["lowest", "median", "highest"]
    for real in results["real"].values():
        assert (real["f1"], real["fpr"]) == (baseline["f1"], baseline["fpr"])


def test_all_settings_that_tie_by_the_probe_are_replayed(made):
    """At the layer where the paper's direction does something: its weakest dose does too little, its strongest all."""
    pool, rows = make_pool(layers={NECESSITY: OTHER, ACTION: LAYER})
    _, _, valid, test, _ = made
    committed = run_trial(pool, rows["cal"], rows["train"], valid, test, pool.labels, DIRECTIONS)
    results = score_the_probe(pool, valid, test, committed)
    signs = gates(p_needed(test, committed.recipe, OTHER), results["tau"])
    outcomes = []
    for dose in DOSES:
        for beta in BETAS:
            setting = Setting(NECESSITY, OTHER, dose, beta, results["tau"])
            called = steered(pool.trigger_id, test, committed.recipe, setting, signs)
            outcomes.append(confusion(called, pool.labels[test.rows])["f1"])
    lowest, median, highest = (results["real"][place] for place in ("lowest", "median", "highest"))
    assert [lowest["f1"], median["f1"], highest["f1"]] == [min(outcomes), median_low(outcomes), max(outcomes)]
    assert lowest["dose"] == DOSES[0] and lowest["f1"] < 0.9 < highest["f1"] == 1.0
    ours = committed.settings[NECESSITY]
    assert results["ours"] == {
        "dose": ours.dose, "beta": ours.beta, "tau": ours.tau, "test": {"f1": 1.0, "fpr": 0.0},
    }  # fmt: skip


def run_all(pool: Pool, rows: dict[str, np.ndarray], seed: int = 0) -> dict:
    return run_robustness(
        pool.requests, rows, pool.reading, pool.batches, pool.names, pool.layers, pool.kind,
        (pool.strength, pool.own), pool.trigger_id, seed,
    )  # fmt: skip


@pytest.mark.slow
def test_the_whole_is_plain_and_repeatable():
    pool, rows = make_pool()
    results = run_all(pool, rows)
    assert list(results) == [
        "committed", "splits", "left_out", "wrong_labels", "keywords", "target_fpr", "probe_protocol",
    ]  # fmt: skip
    assert json.loads(json.dumps(results)) == results == run_all(pool, rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DIRECTIONS)
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], NAMES])
def test_the_smallest_set_is_tested_too(names, kind):
    pool, rows = make_pool(names=names, cell=LEAST, kind=kind)
    results = run_all(pool, rows)
    assert list(results["left_out"]) == (names if len(names) > 1 else [])
    assert [len(row["trials"]) for row in results["wrong_labels"]] == [labels_of.FLIP_SEEDS] * len(labels_of.FLIPS)
    assert len(results["splits"]["trials"]) == robustness.RESPLITS and results["keywords"]["kappa"] == 1.0
    assert json.loads(json.dumps(results)) == results
