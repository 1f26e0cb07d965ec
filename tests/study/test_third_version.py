"""The third version's rungs: the scores are those of what the model does, and the answers begin as tuning saw them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import closed

from asa.data.requests import Request
from asa.data.scores import confusion
from asa.data.splits import ReadSplit
from asa.engine.answering import answer_all
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.method.directions import DIRECTIONS
from asa.method.recipe import Recipe
from asa.method.steering import gates, push_along, replay_triggers
from asa.models.fitting import shared_prefix
from asa.study.cascade import cascade_answers
from asa.study.ladder import Answers
from asa.study.reading_sections import third_section
from asa.study.third_version import (
    CASCADE,
    LENGTHS,
    READY,
    READY_BOTH,
    RESIDUAL,
    ThirdSetting,
    ThirdVersion,
    ready_gate,
    with_residuals,
)

NAMES, LAYERS, LIMIT = ["math", "code"], [2, 3], 6


@pytest.fixture(scope="module")
def world(tiny_lfm2, prompts):
    """The model behind its prompts, requests whose labels follow its states, and what fits them."""
    batches = list(Engine(tiny_lfm2, shared_prefix(prompts)).batches(prompts, "test"))
    unsteered = answer_all(batches, LIMIT, closed, "test")
    trigger = max({said[0] for said in unsteered}, key=[said[0] for said in unsteered].count)
    reading, batches = read_prompts(batches[0].engine, prompts, trigger, "test")
    labels = (reading.states[:, 2, 0] > np.median(reading.states[:, 2, 0])).astype(int)
    requests = [Request("?", int(label), NAMES[row % 2], "test") for row, label in enumerate(labels)]
    valid = ReadSplit(requests, prompts, reading.states, reading.called, reading.log_odds)
    recipe = Recipe(valid, valid.chosen(np.tile(np.arange(len(valid)), 8)), NAMES, 0.1, 1.0)
    third = ThirdVersion(recipe, LAYERS, [2, 3, 4, 5], dict.fromkeys(DIRECTIONS, 4), trigger)
    rules = SimpleNamespace(
        limit=LIMIT, room=1, ended=closed, settled=closed, calls=lambda answer: answer[0] == trigger,
    )  # fmt: skip
    return SimpleNamespace(batches=batches, unsteered=unsteered, valid=valid, third=third, recipe=recipe, rules=rules)


@pytest.fixture(scope="module")
def tuned(world) -> list[ThirdSetting]:
    cascades = world.third.tuned_cascades(world.batches, world.valid, world.rules)
    return world.third.tuned(world.batches, world.valid) + cascades


def test_every_rung_has_a_setting_and_its_scores_are_the_models(world, tuned):
    """Recomputed setting by setting, and from the answers' first tokens."""
    ideas = [RESIDUAL, READY, READY_BOTH, CASCADE]
    assert [(of.idea, of.direction) for of in tuned] == [(idea, kind) for idea in ideas for kind in DIRECTIONS]
    plain = Answers(lambda: world.batches, world.unsteered, world.rules)
    for setting in tuned:
        said = world.third.answers(setting, world.valid.states, plain)
        called = np.array([answer[0] == world.third.trigger_id for answer in said])
        scores = confusion(called, world.valid.labels)
        assert (scores["f1"], scores["fpr"]) == (setting.f1, setting.fpr), setting.rung


def test_a_residual_is_what_the_shared_vector_lacks(world):
    """And with a share of 0 all domains share one vector."""
    directions = world.recipe.directions("action", 2)
    shared, own = directions["global"], directions["math"]
    assert np.allclose(with_residuals(directions, 0.0)["math"], shared, atol=1e-6)
    mixed = with_residuals(directions, 1.0)["math"]
    rest = mixed - (mixed @ shared) * shared
    assert rest @ own > 0 and abs((own - (own @ shared) * shared) @ shared) < 1e-6
    assert np.linalg.norm(mixed) == pytest.approx(1)


def test_the_gate_closes_where_the_model_is_ready():
    need, ready = np.array([0.9, 0.9, 0.1, 0.1, 0.5]), np.array([0.1, 0.9, 0.9, 0.1, 0.1])
    one_way = ThirdSetting("action", 1, 0.5, 0.0, 0.8, idea=READY, limit=0.2)
    assert ready_gate(need, ready, one_way).tolist() == [1, 0, 0, 0, 0]
    assert ready_gate(need, ready, replace(one_way, idea=READY_BOTH)).tolist() == [1, 0, -1, 0, 0]
    assert ready_gate(need, ready, replace(one_way, limit=0.05)).tolist() == [0] * 5


def test_the_push_is_the_methods_along_other_vectors(world, tuned):
    """The residual's rung, by hand."""
    setting = next(of for of in tuned if of.idea == RESIDUAL)
    readers, here = world.recipe.readers(setting.layer), world.valid.states[:, setting.layer]
    vectors = with_residuals(world.recipe.directions(setting.direction, setting.layer), setting.beta)
    along = np.stack([vectors[name] for name in NAMES])[readers.route(here)]
    push = push_along(readers, setting.dose, gates(readers.p_tool(here), setting.tau), along)
    called = replay_triggers(world.batches, world.valid.states, setting.layer, push, world.third.trigger_id)
    assert confusion(called, world.valid.labels)["f1"] == setting.f1


def test_a_cascade_stays_within_the_paper_s_bounds(tuned):
    """15 % of a state's length at most, three to six blocks, none of them the last."""
    cascades = [of for of in tuned if of.idea == CASCADE]
    assert max(LENGTHS) <= 0.15
    assert all(of.dose in LENGTHS and of.blocks in (3, 6) and of.layer + of.blocks <= 5 for of in cascades)


def test_a_model_that_always_calls_has_no_readiness_to_read(world):
    always = replace(world.valid, called=np.ones(len(world.valid), bool))
    third = replace(world.third, recipe=Recipe(world.valid, always, NAMES, 0.1, 1.0))
    assert {of.idea for of in third.tuned(world.batches, world.valid)} == {RESIDUAL}


def test_a_cascade_is_chosen_by_what_follows_the_next_token(world):
    """Where every length lets the next token through and only the shortest lets the call begin, that one is taken."""
    third = world.third
    begun = {LENGTHS[0]: 1.0, LENGTHS[1]: 0.2, LENGTHS[2]: 0.1}
    tried = [
        ThirdSetting(kind, 3, length, 0.0, 0.5, f1=1.0 if length == max(LENGTHS) else 0.9, fpr=0.0, idea=CASCADE)
        for kind in DIRECTIONS
        for length in LENGTHS
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThirdVersion, "_cascades", lambda *_: iter(tried))
        patch.setattr(ThirdVersion, "_generated", lambda _self, of, *_: replace(of, f1=begun[of.dose]))
        chosen = third.tuned_cascades(world.batches, world.valid, world.rules)
    assert [(of.direction, of.dose) for of in chosen] == [(kind, LENGTHS[0]) for kind in DIRECTIONS]


def test_a_cascade_is_judged_by_a_call_that_begins_behind_the_next_token(world):
    """By three tokens of its answers, where the second tells."""
    setting = ThirdSetting("action", 2, LENGTHS[2], 0.0, 0.5, idea=CASCADE, blocks=3, read_at=4)
    cascade = world.third._cascade(setting, world.valid.states)
    said = cascade_answers(world.batches, cascade, 3, lambda _: False, "test")
    second = [said[row][1] for row in range(len(said))]
    wanted = max(set(second), key=second.count)
    rules = SimpleNamespace(room=3, settled=lambda _: False, calls=lambda answer: answer[1] == wanted)
    found = world.third._generated(setting, world.batches, world.valid, rules)
    assert found.f1 == confusion(np.array(second) == wanted, world.valid.labels)["f1"]


def test_there_is_no_cascade_where_no_blocks_fit(world):
    """As where the last block is read."""
    third = replace(world.third, read_at=dict.fromkeys(DIRECTIONS, 1), readable=[1, 5])
    assert third.tuned_cascades(world.batches, world.valid, world.rules) == []


def test_the_report_has_a_row_a_rung(tuned, proof):
    settings = [vars(of) for of in tuned]
    ladder = {of.rung: proof["ladder"]["baseline"] for of in tuned}
    *_, table = third_section(settings, ladder)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [of.rung for of in tuned]
    assert rows[-1][1] == f"{tuned[-1].layer}-{tuned[-1].layer + tuned[-1].blocks - 1}" and rows[0][5] == "-"
    assert third_section(None, ladder) == third_section([], ladder) == []
