"""The ladder: rivals and ablations answer row by row as promised, and nothing is asked for twice."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import HIDDEN, last_token
from helpers import Answer, closed, generated

import asa.engine.answering
import asa.engine.engine
from asa.engine.decoding import Decoder
from asa.engine.engine import Engine
from asa.evaluation.ablations import Steered, pushes
from asa.method.tuning import Setting
from asa.models.fitting import shared_prefix
from asa.models.profiles import EMBEDDED, LFM25
from asa.models.prompts import Prompter
from asa.study.ladder import EXAMPLES, IN_WORDS, Answers, openings, run_ladder, run_prompts, with_examples_shown
from asa.tools.definitions import load_tools

LIMIT, LAYER = 6, 1
RULES = SimpleNamespace(limit=LIMIT, ended=closed, trigger_id=7)
TOOLS = load_tools(Path(__file__).parents[2] / "data" / "tools.json")


@pytest.fixture
def answers(tiny_lfm2, prompts, monkeypatch) -> Answers:
    """Of three batches; the unsteered answers are such as no model gives, so that they can be told."""
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 5)
    batches = list(Engine(tiny_lfm2, shared_prefix(prompts)).batches(prompts, "test"))
    return Answers(lambda: batches, [[-row] for row in range(len(prompts))], RULES)


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """The row numbers that were generated, one after the other."""
    rows, add = [], Decoder.add

    def watched(self, given, push):
        rows.extend(row for _, row in given.names)
        return add(self, given, push)

    monkeypatch.setattr(Decoder, "add", watched)
    return rows


@pytest.fixture(scope="module")
def push(tiny_lfm2, prompts) -> np.ndarray:
    """As long as a state; rows 2, 5 and 11 are left alone, one of them by a negative zero."""
    states = torch.stack([last_token(tiny_lfm2, prompt)[0][LAYER] for prompt in prompts]).numpy()
    push = np.random.default_rng(0).standard_normal(states.shape).astype(np.float32)
    push *= np.linalg.norm(states, axis=1, keepdims=True) / np.linalg.norm(push, axis=1, keepdims=True)
    push[[2, 5, 11]] = [[0.0], [0.0], [-0.0]]
    return push


def test_pushed_rows_answer_as_under_the_plain_push_and_the_others_are_left_alone(tiny_lfm2, prompts, answers, push):
    said = answers.pushed(LAYER, push, "test")
    for row, prompt in enumerate(prompts):
        if row in (2, 5, 11):
            assert said[row] is answers.unsteered[row]
            continue
        assert said[row] == generated(tiny_lfm2, prompt, LIMIT, push=(LAYER, torch.from_numpy(push[row])))
    assert sum(said[row] != generated(tiny_lfm2, prompt, LIMIT) for row, prompt in enumerate(prompts)) > 6


def test_a_push_is_asked_for_once(answers, push, asked):
    """Again only where layer, row or push is another."""
    said = answers.pushed(LAYER, push, "test")
    assert sorted(asked) == [0, 1, 3, 4, 6, 7, 8, 9, 10]
    asked.clear()
    assert answers.pushed(LAYER, push.copy(), "test") == said and asked == []
    turned = push.copy()
    turned[[4, 9]] *= -1
    again = answers.pushed(LAYER, turned, "test")
    assert sorted(asked) == [4, 9]
    assert [again[row] for row in range(12) if row not in (4, 9)] == [said[r] for r in range(12) if r not in (4, 9)]
    asked.clear()
    swapped = push.copy()
    swapped[[0, 1]] = push[[1, 0]]
    answers.pushed(LAYER, swapped, "test")
    assert sorted(asked) == [0, 1]
    asked.clear()
    answers.pushed(LAYER + 1, push, "test")
    assert sorted(asked) == [0, 1, 3, 4, 6, 7, 8, 9, 10]


def test_remembered_answers_are_not_asked_for(answers, push, asked):
    given = [[1000 + row] for row in range(12)]
    answers.remember(LAYER, push, given)
    said = answers.pushed(LAYER, push, "test")
    assert asked == []
    assert said == [answers.unsteered[row] if row in (2, 5, 11) else given[row] for row in range(12)]
    half = push.copy()
    half[6:] = 0
    half[3] *= 2
    assert answers.pushed(LAYER, half, "test")[:3] == said[:3] and asked == [3]


def test_forced_and_forbidden_rows_and_those_left_alone(tiny_lfm2, prompts, answers, asked):
    """At gate -1 the trigger gives way to the best of the others, also where the model would have said it."""
    firsts = [last_token(tiny_lfm2, prompt)[1] for prompt in prompts]
    trigger = int(firsts[7].argmax())
    gate = np.array([1, 0, -1] * 4)
    gate[7] = -1
    assert not closed([trigger]) and any(int(firsts[row].argmax()) != trigger for row in np.flatnonzero(gate == 1))
    answers.rules = SimpleNamespace(limit=LIMIT, ended=closed, trigger_id=trigger)
    said = answers.forced(gate)
    assert sorted(asked) == np.flatnonzero(gate).tolist()
    for row, (prompt, sign) in enumerate(zip(prompts, gate, strict=True)):
        if sign == 0:
            assert said[row] is answers.unsteered[row]
            continue
        first = trigger
        if sign == -1:
            allowed = firsts[row].clone()
            allowed[trigger] = -torch.inf
            first = int(allowed.argmax())
        rest = [] if closed([first]) else generated(tiny_lfm2, [*prompt, first], LIMIT - 1)
        assert said[row] == Answer([first, *rest], tiny_lfm2, prompt)


def test_begun_answers_go_on_from_their_own_opening(tiny_lfm2, prompts, answers, asked):
    begins = [[[9], [], [301, 42, 33], [301]][row % 4] for row in range(12)]
    said = answers.begun(begins)
    assert sorted(asked) == [row for row in range(12) if row % 4 != 1]
    for row, (prompt, opening) in enumerate(zip(prompts, begins, strict=True)):
        if opening:
            rest = generated(tiny_lfm2, prompt + opening, LIMIT - len(opening))
            assert said[row] == Answer(opening + rest, tiny_lfm2, prompt)
        else:
            assert said[row] is answers.unsteered[row]


def test_nobody_forced_nobody_begun_nobody_pushed_costs_nothing(answers, asked):
    assert answers.forced(np.zeros(12, int)) == answers.unsteered
    assert answers.begun([[]] * 12) == answers.unsteered
    assert answers.pushed(LAYER, np.zeros((12, HIDDEN), np.float32), "test") == answers.unsteered
    assert asked == []


def test_batches_are_prefilled_only_where_something_is_asked(push):
    """So that a run whose rungs are all kept needs none."""

    def fail():
        raise AssertionError("nobody asked")

    answers = Answers(fail, [[-row] for row in range(12)], RULES)
    answers.remember(LAYER, push, [[row] for row in range(12)])
    assert answers.pushed(LAYER, push, "test")[3] == [3]
    with pytest.raises(AssertionError, match="nobody asked"):
        answers.pushed(LAYER, -push, "test")


@pytest.mark.parametrize("profile", [EMBEDDED, LFM25], ids=lambda profile: profile.name)
def test_openings_begin_a_call_of_each_tool_or_words(tiny_tokenizer, profile):
    """A begun call is how the whole call begins, token for token, so it commits the model to nothing else."""
    prompter = Prompter(tiny_tokenizer, profile, TOOLS)
    begun, words = openings(prompter)
    assert [tiny_tokenizer.decode(ids) for ids in begun] == [f"{profile.trigger}[{name}" for name in TOOLS]
    assert tiny_tokenizer.decode(words) == IN_WORDS
    for ids, tool in zip(begun, TOOLS.values(), strict=True):
        call = tiny_tokenizer(prompter.reaction(tool, tool.examples[0]), add_special_tokens=False)["input_ids"]
        assert call[: len(ids)] == ids and ids[0] == prompter.trigger_id
    assert prompter.trigger_id not in words


def turns(tokenizer, profile, tools) -> list[str]:
    """The user's turns in front of the request."""
    return [turn["content"] for turn in Prompter(tokenizer, profile, tools).messages if turn["role"] == "user"]


@pytest.mark.parametrize("profile", [EMBEDDED, LFM25], ids=lambda profile: profile.name)
def test_a_prompt_variant_deals_examples_out_over_the_tools(tiny_tokenizer, profile):
    """Every tool has a call (even) and an answer in words (odd): as many of both are shown, of as many tools as can."""
    everything = [example.request for tool in TOOLS.values() for example in tool.examples]
    assert EXAMPLES == (0, 2, 4, 8) and len(everything) == 8
    expected = {0: [], 2: [0, 3], 4: [0, 3, 4, 7], 8: list(range(8))}
    main = Prompter(tiny_tokenizer, profile, TOOLS)
    for count in EXAMPLES:
        changed, tools = with_examples_shown(profile, TOOLS, count)
        shown = [everything[place] for place in expected[count]]
        assert turns(tiny_tokenizer, changed, tools) == shown and changed.few_shot == (count > 0)
        variant = Prompter(tiny_tokenizer, changed, tools)
        assert variant.messages[0] == main.messages[0]
        assert (variant.key() == main.key()) == (count == (8 if profile.few_shot else 0))
    assert [len(tool.examples) for tool in TOOLS.values()] == [2] * 4


def test_tools_with_fewer_examples_are_dealt_what_they_have():
    """The first tool has one example, the second none."""
    few = {
        name: replace(tool, examples=tool.examples[:count])
        for (name, tool), count in zip(TOOLS.items(), (1, 0, 2, 2), strict=True)
    }
    for count, shown in ((2, [1, 0, 1, 0]), (4, [1, 0, 2, 1]), (8, [1, 0, 2, 2])):
        _, tools = with_examples_shown(EMBEDDED, few, count)
        assert [len(tool.examples) for tool in tools.values()] == shown


@pytest.mark.parametrize("few_shot", [True, False])
def test_other_prompts_are_answered_and_the_main_prompt_s_answers_are_kept(tiny_llama, tiny_tokenizer, few_shot):
    """The model answers to each prompt as it does alone; the prompt that it has been asked with is not asked again."""
    profile = replace(EMBEDDED, few_shot=few_shot, max_new_tokens=4)
    texts, unsteered = ["What is 12 times 7?", "Why is the sky blue?", "Translate this"], [[-1], [-2], [-3]]
    rungs = run_prompts(tiny_llama, Prompter(tiny_tokenizer, profile, TOOLS), texts, unsteered, closed)
    assert list(rungs) == [f"prompt with {count} examples" for count in (0, 2, 4, 8)]
    for count in EXAMPLES:
        said = rungs[f"prompt with {count} examples"]
        if count == (8 if few_shot else 0):
            assert said is unsteered
            continue
        other = Prompter(tiny_tokenizer, *with_examples_shown(profile, TOOLS, count))
        assert said == [generated(tiny_llama, other.ids(text), 4) for text in texts]
    assert len({str(said) for said in rungs.values()}) == 4


class FakeDecoder:
    """Answers say what was done to a row, and for which layer; they are not tokens. It notes the rows it answered."""

    asked: list[int] = []  # noqa: RUF012

    def __init__(self, engine, limit, closed, opening, avoid, ended, calls=None):
        self.opening, self.avoid, self.answers = tuple(opening), avoid, {}

    def __class_getitem__(cls, _name):
        return cls

    def add(self, names, push):
        layer, delta = push or (None, [None] * len(names))
        for (run, row), each in zip(names, delta, strict=True):
            self.asked.append(row)
            self.answers[run, row] = (row, layer, plain(each), self.opening, self.avoid)

    def finish(self):
        return self.answers


class FakeBatch:
    """Rows that a fake decoder takes."""

    engine = None

    def __init__(self, rows: list[int]):
        self.rows = rows
        self.own_mask = torch.ones(len(rows), 1, dtype=torch.bool)

    def select(self, places):
        return FakeBatch([self.rows[place] for place in places])

    def begin(self, names):
        return names


def plain(delta) -> tuple | None:
    return None if delta is None else tuple(np.asarray(delta).tolist())


AXIS = np.eye(4, dtype=np.float32)
ROUTED = np.array([0, 1, 1, 0, 0])
DOMAINS = ["math", "code", "code", "code", "math"]  # the router errs in row 3
CALLED = np.array([True, False, False, False, True])


def fake_readers(*p_tool: float) -> SimpleNamespace:
    """Readers that know only these five requests; in row 3 the domain's own probe, in row 2 the routed is less sure."""
    by_domain = np.array([p_tool, p_tool])
    by_domain[1, [2, 3]] = 0.5
    return SimpleNamespace(
        domains=["math", "code"],
        mean_norm=8.0,
        route=lambda here: ROUTED,
        p_tool=lambda here, routed=None: np.array(p_tool) if routed is None else by_domain[routed, np.arange(5)],
    )


def parts_of(direction: str, layer: int, axis: int, *p_tool: float) -> Steered:
    vectors = {"global": AXIS[0], "math": AXIS[axis], "code": AXIS[axis + 1]}
    setting = Setting(direction, layer, dose=0.5, beta=0.5, tau=0.8)
    return Steered(setting, fake_readers(*p_tool), fake_readers(0.1, 0.9, 0.9, 0.1, 0.9), vectors)


UNSTEERED = [[row] for row in range(5)]
VARIANTS = [
    "full", "no gate", "+1 only", "-1 only", "routed probe", "one probe", "oracle router", "mismatched domains",
    "random direction 1", "random direction 2", "random direction 3", "global only", "domain only",
    "looking ahead",
]  # fmt: skip
RUNGS = [
    "trigger forced or forbidden", "Probe&Prefill",
    *[f"{kind}: {name}" for kind in ("necessity", "action") for name in VARIANTS],
]  # fmt: skip


def climb(kept=lambda rung, ask: ask()) -> tuple[dict[str, list], dict[str, dict[str, np.ndarray]]]:
    """All rungs of two directions that steer at their own layers and whose gates differ, and every ablation's push.

    `action` is the main one; its answers under the whole method are known.
    """
    steered = {
        "necessity": parts_of("necessity", 0, 1, 0.9, 0.9, 0.9, 0.9, 0.9),
        "action": parts_of("action", 1, 2, 0.9, 0.5, 0.95, 0.1, 0.2),  # gate 1, 0, 1, -1, -1
    }
    words = {"<call>[a": [7, 1], "<call>[b": [7, 2], IN_WORDS: [8]}
    prompter = SimpleNamespace(
        profile=SimpleNamespace(trigger="<call>"), tools={"a": None, "b": None},
        tokenizer=lambda text, add_special_tokens: {"input_ids": words[text]},
    )  # fmt: skip
    states, said = np.zeros((5, 2, 4), np.float32), {"action": [[900 + row] for row in range(5)]}
    answers = Answers(lambda: [FakeBatch([4, 0, 2]), FakeBatch([3, 1])], UNSTEERED, RULES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asa.engine.answering, "Decoder", FakeDecoder)
        rungs = run_ladder(answers, states, CALLED, steered, "action", said, kept, DOMAINS, prompter, seed=3)
    return rungs, {kind: pushes(parts, states, DOMAINS, 3) for kind, parts in steered.items()}


def test_the_rungs_of_the_ladder():
    rungs, _ = climb()
    assert list(rungs) == RUNGS
    assert all(len(rung) == 5 for rung in rungs.values())


def test_rivals_obey_the_main_direction_s_gate():
    """Row 0 is math, row 2 code; row 1 is left alone, rows 3 and 4 should be answered in words."""
    rungs, _ = climb()
    assert rungs["trigger forced or forbidden"] == [
        (0, None, None, (7,), None), [1], (2, None, None, (7,), None), (3, None, None, (), 7), (4, None, None, (), 7),
    ]  # fmt: skip
    assert rungs["Probe&Prefill"] == [
        (0, None, None, (7, 1), None), [1], (2, None, None, (7, 2), None),
        (3, None, None, (8,), None), (4, None, None, (8,), None),
    ]  # fmt: skip


def test_every_ablation_answers_under_its_own_push_at_its_direction_s_layer():
    """Where a push is that of the whole method, looking ahead, its known answer is taken."""
    rungs, pushed = climb()
    for kind, layer in (("necessity", 0), ("action", 1)):
        for name, push in pushed[kind].items():
            for row, answer in enumerate(rungs[f"{kind}: {name}"]):
                if not push[row].any():
                    assert answer == UNSTEERED[row]
                elif kind == "action" and row in (2, 4) and np.array_equal(push[row], pushed[kind]["full"][row]):
                    assert answer == [900 + row]  # the rows that are pushed where it looks ahead
                else:
                    assert answer == (row, layer, plain(push[row]), (), None)


def test_ablations_differ_from_the_whole_method_where_they_should():
    rungs, _ = climb()
    full = rungs["action: full"]
    assert [full[row] for row in (1, 2, 4)] == [[1], [902], [904]]
    changed = {name: [row for row in range(5) if rungs[f"action: {name}"][row] != full[row]] for name in VARIANTS[1:8]}
    assert changed == {
        "no gate": [1, 3, 4],  # pushed up like the others
        "+1 only": [3, 4],
        "-1 only": [0, 2],
        "routed probe": [2],  # alone it is not sure
        "one probe": [0, 1, 4],  # it is of another opinion there
        "oracle router": [2, 3],  # whose own domain's probe is not sure
        "mismatched domains": [0, 2, 3, 4],
    }
    assert rungs["action: looking ahead"] == [[0], [1], [902], [3], [904]]  # rows 0 and 3 do so anyway
    assert rungs["action: +1 only"][3:] == [[3], [4]] and rungs["action: oracle router"][3] == [3]


def test_a_kept_rung_is_not_made_again_and_other_rungs_take_its_answers():
    """A rung's answers come from where they are kept, by its name; only the others are asked for."""
    store: dict[str, list] = {}
    first, _ = climb(lambda rung, ask: store.setdefault(rung, ask()))
    assert list(store) == RUNGS
    FakeDecoder.asked.clear()
    again, _ = climb(lambda rung, ask: store[rung])
    assert again == first and FakeDecoder.asked == []
    del store["action: no gate"]
    climb(lambda rung, ask: store[rung] if rung in store else ask())
    assert sorted(FakeDecoder.asked) == [1, 3, 4]  # rows 0 and 2 are pushed as by the whole method
    store["necessity: full"] = [[row, row] for row in range(5)]
    taken, _ = climb(lambda rung, ask: store[rung] if rung == "necessity: full" else ask())
    assert taken["necessity: +1 only"] == taken["necessity: no gate"] == store["necessity: full"]
