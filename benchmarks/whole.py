"""The whole pipeline, by both sides: really run at a reduced size, and added up at full size from measured parts.

The reduced run goes from prompts to answers: states of CAL, TRAIN and VALID, readers and directions at one layer, a
sweep on VALID, the chosen setting's answers on TEST. What is the same scikit-learn work on both sides, the choice of
layers and of the probes' regularisation, is left out.
"""

from dataclasses import dataclass, field
from itertools import product

import numpy as np
from bench import Bench, Compared, Row, Sizes, timed
from plain import hook_of, last_token, next_token
from rows import compare_answers, our_answers, plain_answers, triggers

from asa.adapter import ASAAdapter
from asa.data.scores import confusion
from asa.data.splits import ReadSplit
from asa.engine.engine import Engine
from asa.engine.states import read_prompts, read_states
from asa.method.directions import DIRECTIONS, NECESSITY
from asa.method.layers import MOST_LAYERS
from asa.method.recipe import Recipe
from asa.method.tuning import BETAS, DOSES, Setting, best_setting

FITTED = ("cal", "train")


@dataclass(frozen=True)
class Outcome:
    """What a whole pipeline came to.

    Attributes:
        called: `[N]`, unsteered calls on VALID.
        swept: The same for every setting.
        chosen: The chosen setting with its scores.
        answers: TEST's (baseline, steered) answers.
        adapter: Of the chosen setting.
    """

    called: list[bool]
    swept: list[list[bool]]
    chosen: Setting
    answers: list
    adapter: ASAAdapter = field(compare=False)


class Pipeline:
    """The same small pipeline for both sides: states, one layer's readers and directions, a sweep, answers on TEST.

    Args:
        bench: Gives splits, of which the first rows of every domain and label are taken, and the layer.
        sizes: How many.
    """

    def __init__(self, bench: Bench, sizes: Sizes):
        self.bench, self.sizes, self.layer = bench, sizes, bench.adapter.layer
        self.rows = {name: first_rows(rows, sizes.unit * (1 + (name == "test"))) for name, rows in bench.splits.items()}
        self.prompts = {name: [bench.prompts[name][row] for row in rows] for name, rows in self.rows.items()}
        self.grid = list(product(BETAS, DOSES))[: sizes.settings]

    def ours(self) -> Outcome:
        """By the engine."""
        bench, engine = self.bench, Engine(self.bench.model, self.bench.prefix)
        fit = {name: read_states(engine, self.prompts[name], bench.trigger_id, name).states for name in FITTED}
        valid, batches = read_prompts(engine, self.prompts["valid"], bench.trigger_id, "valid")
        adapters = self._adapters({name: states[:, self.layer] for name, states in fit.items()})
        swept = [triggers(bench, batches, valid.states, adapter).tolist() for adapter in adapters]
        chosen = self._choose(valid.called.tolist(), swept)
        answers = our_answers(bench, engine, self.prompts["test"], adapters[chosen[0]], self.sizes.limit)
        return Outcome(valid.called.tolist(), swept, chosen[1], answers, adapters[chosen[0]])

    def theirs(self) -> Outcome:
        """One request at a time."""
        bench, model = self.bench, self.bench.model
        read = {name: [last_token(model, ids) for ids in self.prompts[name]] for name in ("cal", "train", "valid")}
        fit = {name: np.stack([states[self.layer] for states, _ in read[name]]) for name in FITTED}
        called = [token == bench.trigger_id for _, token in read["valid"]]
        adapters = self._adapters(fit)
        hooks = [hook_of(adapter) for adapter in adapters]
        swept = [
            [next_token(model, ids, self.layer, hook) == bench.trigger_id for ids in self.prompts["valid"]]
            for hook in hooks
        ]
        chosen = self._choose(called, swept)
        tests = self.prompts["test"]
        answers = [plain_answers(bench, ids, self.layer, hooks[chosen[0]], self.sizes.limit) for ids in tests]
        return Outcome(called, swept, chosen[1], answers, adapters[chosen[0]])

    def _adapters(self, states: dict[str, np.ndarray]) -> list[ASAAdapter]:
        """One adapter per setting, from CAL's and TRAIN's states `[N, H]`; the fitting is the same on both sides."""
        splits, bench = {}, self.bench
        for name, here in states.items():
            rows, unread = [bench.splits[name][row] for row in self.rows[name]], np.zeros(len(here))
            splits[name] = ReadSplit(rows, self.prompts[name], here[:, None], unread > 0, unread)
        recipe = Recipe(splits["cal"], splits["cal"] + splits["train"], bench.adapter.domains, strength=0.1, own=1.0)
        settings = [Setting(NECESSITY, 0, dose, beta, 0.5) for beta, dose in self.grid]  # the one layer of `states`
        adapters = [recipe.adapter(setting, bench.adapter.config) for setting in settings]
        return [ASAAdapter(each.config | {"layer": self.layer}, each.arrays) for each in adapters]

    def _choose(self, called: list[bool], swept: list[list[bool]]) -> tuple[int, Setting]:
        labels = [self.bench.splits["valid"][row].label for row in self.rows["valid"]]
        settings = []
        for (beta, dose), calls in zip(self.grid, swept, strict=True):
            scores = confusion(calls, labels)
            settings.append(Setting(NECESSITY, self.layer, dose, beta, 0.5, scores["f1"], scores["fpr"]))
        best = best_setting(settings, confusion(called, labels)["fpr"])
        return settings.index(best), best


def first_rows(requests, count: int) -> list[int]:
    """Places of the first `count` requests of every domain and label."""
    seen: dict[tuple, list[int]] = {}
    for row, request in enumerate(requests):
        seen.setdefault((request.domain, request.label), []).append(row)
    return sorted(row for rows in seen.values() for row in rows[:count])


def pipeline(bench: Bench, sizes: Sizes) -> Row:
    """A whole small pipeline, run once by both sides."""
    both = Pipeline(bench, sizes)
    (ours_s, ours), (theirs_s, theirs) = timed(both.ours), timed(both.theirs)
    equal = (ours.called, ours.swept, ours.chosen) == (theirs.called, theirs.swept, theirs.chosen)
    answers = dict(enumerate(theirs.answers))
    same, said = compare_answers(
        bench, both.prompts["test"], ours.answers, answers, both.layer, hook_of(theirs.adapter)
    )
    counts = ", ".join(f"{name.upper()} {len(rows)}" for name, rows in both.rows.items())
    note = (
        f"{counts}, {len(both.grid)} settings, all of it run once by both sides; calls of every setting and the "
        f"chosen setting {'equal' if equal else 'DIFFER'} (dose {ours.chosen.dose}, beta {ours.chosen.beta}); {said}"
    )
    return Row("whole pipeline, same work, reduced size", ours_s, theirs_s, "8 x", equal and same, note)


def full_pipeline(bench: Bench, states: Compared, setting: Compared, answers: Compared) -> Row:
    """The whole pipeline at full size, added up from the measured rows."""
    count = {name: len(rows) for name, rows in bench.splits.items()}
    read = count["cal"] + count["train"] + count["valid"]
    settings = len(DIRECTIONS) * MOST_LAYERS * len(BETAS) * len(DOSES)

    def added(side: str) -> float:
        each = [getattr(part, side) / len(part.ours) for part in (states, setting, answers)]
        return each[0] * read + each[1] * count["valid"] * settings + each[2] * count["test"]

    note = (
        f"not run: added up from the rows above, {read} requests read, {settings} settings on {count['valid']} "
        f"requests, {count['test']} answered twice"
    )
    return Row("whole pipeline, same work, full size", added("ours_s"), added("theirs_s"), "8 x", None, note)
