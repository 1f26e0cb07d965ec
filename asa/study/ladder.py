"""The ladder: what simpler means achieve, and what is left of the method without one of its parts.

Every rung lets the model answer all requests greedily; the same push gives the same answer, so it is asked for once.
The rivals obey the same gate as the method: one forces or forbids the trigger's first token and touches no hidden
state; Probe&Prefill (after the method of that name in When2Tool) begins the answer with words that commit it. Other
prompts show fewer examples. Nothing is scored and nothing is chosen here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from asa.engine.answering import answer_all, answer_chosen
from asa.engine.batch import Batch
from asa.engine.engine import Engine
from asa.evaluation.ablations import LOOKING, Steered, pushes
from asa.method.steering import gates, where_it_differs
from asa.models.answers import AnswerRules
from asa.models.fitting import shared_prefix
from asa.models.layout import CausalModel
from asa.models.profiles import Profile
from asa.models.prompts import Prompter
from asa.tools.definitions import Tool

EXAMPLES = (0, 2, 4, 8)  # example turns of the prompt variants
FORCED = "trigger forced or forbidden"
IN_WORDS = "I can answer that in words. "  # Probe&Prefill's opening where no tool is needed


@dataclass
class Answers:
    """Greedy answers of one model to N requests, each asked for once.

    Attributes:
        batches: Gives the requests' batches when they are needed.
        unsteered: `[N]` answers without intervention.
        rules: What belongs to answers.
    """

    batches: Callable[[], list[Batch]]
    unsteered: list[list[int]]
    rules: AnswerRules
    _known: dict[tuple, list[int]] = field(default_factory=dict, repr=False)

    def pushed(self, layer: int, push: np.ndarray, what: str) -> list[list[int]]:
        """Answers after `push` `[N, H]` at block `layer`; a push of zero leaves the unsteered answer."""
        keys, moved = _keys(layer, push), np.any(push, axis=1)
        new = np.array([moved[row] and key not in self._known for row, key in enumerate(keys)])
        if new.any():
            found = answer_chosen(self.batches(), new, self.rules.limit, self.rules.ended, what, push=(layer, push))
            self._known |= {keys[row]: answer for row, answer in found.items()}
        return [self._known[key] if moved[row] else self.unsteered[row] for row, key in enumerate(keys)]

    def remember(self, layer: int, push: np.ndarray, said: list[list[int]]) -> None:
        """Take `said` `[N]` as the answers after `push`, as if asked for here."""
        self._known |= dict(zip(_keys(layer, push), said, strict=True))

    def forced(self, gate: np.ndarray) -> list[list[int]]:
        """Answers that must begin with the trigger's first token at gate 1 and must not at gate -1."""
        rules = self.rules
        up = answer_chosen(self.batches(), gate == 1, rules.limit, rules.ended, "forced", opening=[rules.trigger_id])
        down = answer_chosen(self.batches(), gate == -1, rules.limit, rules.ended, "forbidden", avoid=rules.trigger_id)
        return list((dict(enumerate(self.unsteered)) | up | down).values())

    def begun(self, openings: list[list[int]]) -> list[list[int]]:
        """Answers that begin with `openings` `[N]`; an empty one leaves the unsteered answer."""
        answers, rules = dict(enumerate(self.unsteered)), self.rules
        for opening in sorted({tuple(opening) for opening in openings if opening}):
            rows = np.array([tuple(row) == opening for row in openings])
            answers |= answer_chosen(self.batches(), rows, rules.limit, rules.ended, "prefilled", opening=opening)
        return list(answers.values())


def _keys(layer: int, push: np.ndarray) -> list[tuple]:
    return [(layer, row, push[row].tobytes()) for row in range(len(push))]


def openings(prompter: Prompter) -> tuple[list[list[int]], list[int]]:
    """Probe&Prefill's openings as token ids: a begun call of every tool, in order, and `IN_WORDS`.

    A call is begun up to the tool's name: a bracket behind it would be drawn into one token with what follows.
    """
    calls = [f"{prompter.profile.trigger}[{name}" for name in prompter.tools]
    *begun, words = (prompter.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (*calls, IN_WORDS))
    return begun, words


def with_examples_shown(profile: Profile, tools: dict[str, Tool], count: int) -> tuple[Profile, dict[str, Tool]]:
    """A prompt variant with `count` example turns, dealt out over the tools in turn, calls and words alternately."""
    rounds = range(max(len(tool.examples) for tool in tools.values()))
    dealt = [
        (name, tool.examples[(turn + place) % len(tool.examples)])
        for turn in rounds
        for place, (name, tool) in enumerate(tools.items())
        if turn < len(tool.examples)
    ]
    shown = {
        name: replace(tool, examples=tuple(example for example in tool.examples if (name, example) in dealt[:count]))
        for name, tool in tools.items()
    }
    return replace(profile, few_shot=count > 0), shown


def prompts_by_examples(prompter: Prompter) -> dict[int, Prompter]:
    """Example turns shown -> the prompts that show so many; tools may have fewer than are asked for."""
    others = [
        Prompter(prompter.tokenizer, *with_examples_shown(prompter.profile, prompter.tools, count))
        for count in EXAMPLES
    ]
    return {(len(other.messages) - 1) // 2: other for other in others}


def run_prompts(
    model: CausalModel,
    prompter: Prompter,
    texts: list[str],
    unsteered: list[list[int]],
    closed: Callable[[list[int]], bool],
) -> dict[str, list[list[int]]]:
    """Unsteered answers `[N]` under prompts with other numbers of examples.

    Args:
        model: The model.
        prompter: Of the main prompt, to which `unsteered` `[N]` are the answers.
        texts: `[N]` requests.
        unsteered: `[N]`.
        closed: As in `Batch.decode`.
    """
    rungs = {}
    for count, other in prompts_by_examples(prompter).items():
        rung = f"prompt with {count} examples"
        if other.key() == prompter.key():
            rungs[rung] = unsteered
            continue
        prompts = [other.ids(text) for text in texts]
        batches = list(Engine(model, shared_prefix(prompts)).batches(prompts, rung))
        rungs[rung] = answer_all(batches, other.profile.max_new_tokens, closed, rung)
    return rungs


def run_ladder(
    answers: Answers,
    states: np.ndarray,
    called: np.ndarray,
    steered: dict[str, Steered],
    main: str,
    said: dict[str, list[list[int]]],
    kept: Callable[[str, Callable[[], list[list[int]]]], list[list[int]]],
    domains: list[str],
    prompter: Prompter,
    seed: int,
) -> dict[str, list[list[int]]]:
    """Let the model answer under every rival and every ablation of all directions.

    Args:
        answers: Of the requests.
        states: `[N, layers, H]`.
        called: `[N]` bool, whether the unsteered model's next token opens a call.
        steered: Direction -> its parts.
        main: The direction whose gate the rivals obey.
        said: Direction -> answers under the whole method, looking ahead, where they are known.
        kept: Gives a rung's answers by its name, and makes them where they are not kept.
        domains: `[N]`.
        prompter: Of the unsteered model's prompt.
        seed: Of the random directions.

    Returns:
        Rung -> answers `[N]`; ablations are named "direction: ablation".
    """
    readers, setting = steered[main].readers, steered[main].setting
    here = states[:, setting.layer]
    routed, gate = readers.route(here), gates(readers.p_tool(here), setting.tau)
    begun, words = openings(prompter)
    begins = [{1: begun[domain], -1: words, 0: []}[sign] for sign, domain in zip(gate.tolist(), routed, strict=True)]
    rivals = {
        FORCED: lambda: answers.forced(gate),
        "Probe&Prefill": lambda: answers.begun(begins),
    }
    rungs = {name: kept(name, ask) for name, ask in rivals.items()}
    for direction, parts in steered.items():
        layer, variants = parts.setting.layer, pushes(parts, states, domains, seed)
        own_gate = gates(parts.readers.p_tool(states[:, layer]), parts.setting.tau)
        variants[LOOKING] = where_it_differs(variants["full"], own_gate, called)
        if direction in said:
            answers.remember(layer, variants[LOOKING], said[direction])
        for name, push in variants.items():
            rung = f"{direction}: {name}"
            rungs[rung] = kept(rung, partial(answers.pushed, layer, push, rung))
            answers.remember(layer, push, rungs[rung])
    return rungs
