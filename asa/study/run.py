"""The study behind one call: ladder, damage, curves, geometry, other gates, LoRA, robustness and other prompts.

Every part is a checkpoint, each rung of the ladder one of its own. Settings come from VALID; TEST is answered, and
nothing is chosen on it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from asa.data.references import Reference
from asa.data.splits import ReadSplit, Split
from asa.engine.calling import CallWriter
from asa.engine.engine import Engine
from asa.engine.states import Prefilled, read_prompts
from asa.evaluation.ablations import Steered, whole
from asa.evaluation.answered import Answered, steered_parts
from asa.method.directions import DIRECTIONS, NECESSITY
from asa.method.recipe import Recipe, Sweep, Tuned
from asa.method.tuning import DOSES, settings_to_json
from asa.models.answers import AnswerRules
from asa.models.prompts import Prompter
from asa.study.calling import call_rungs, rungs_scored
from asa.study.curves import dose_curves, drawn_layers, fitting_calls, layer_curve
from asa.study.damage import run_damage
from asa.study.gates import compare_gates
from asa.study.geometry import geometry, output_row
from asa.study.ladder import EXAMPLES, FORCED, Answers, run_ladder, run_prompts
from asa.study.learning import DRAWS, SIZES, learning_curve
from asa.study.lora import LEARNING_RATE, RANK, answer_by_lora
from asa.study.robustness import pooled, run_robustness
from asa.study.scoring import score_ladder
from asa.study.shown_examples import try_shown_examples
from asa.study.third_version import ThirdSetting, ThirdVersion
from asa.support.checkpoints import Checkpoints
from asa.support.files import key_of


@dataclass(frozen=True)
class Study:
    """What the study looks at.

    Attributes:
        engine: The model behind the prompts' common beginning.
        prompter: The prompts.
        rules: What belongs to answers.
        read: `cal`, `train`, `valid` and `spare`.
        test: TEST.
        found: Where the need can be read.
        recipe: Fits readers and directions.
        tuned: What was tried on VALID.
        answered: TEST's answers.
        prefilled: TEST's prompts.
        layers: Where steering was tried.
        call_writer: Writes calls under the tools' grammar; None: nothing is asked of them.
        sure: How sure the router must be to say which tool.
        references: What right calls give.
        checkpoints: Where results are kept.
        keys: What results depend on: `run`, `readers`, `baseline` and `test`.
        seed: Of all that is drawn.
    """

    engine: Engine
    prompter: Prompter
    rules: AnswerRules
    read: dict[str, ReadSplit]
    test: Split
    found: Sweep
    recipe: Recipe
    tuned: Tuned
    answered: Answered
    prefilled: Prefilled
    layers: list[int]
    call_writer: CallWriter | None
    sure: float
    references: dict[str, Reference]
    checkpoints: Checkpoints
    keys: dict[str, str]
    seed: int

    def run(self, kind: str) -> dict | None:
        """`results["proof"]`: of "steering", or of "all" with LoRA and robustness; of "" nothing, None."""
        if not kind:
            return None
        stage, keys, chosen = self.checkpoints.stage, self.keys, self.tuned.best()
        found, (rungs, lora, third) = self.found, self._rungs(kind == "all")
        damaged = stage("proof-damage", key_of(keys["test"], rungs), lambda: self._damage(rungs))
        settings = (keys["readers"], found.to_json(), chosen.layer)
        curves_key = key_of(*settings, drawn_layers(self.layers, chosen.layer), DOSES, chosen.tau)
        return {
            "calls": self._calls(rungs, lora), "ladder": self._ladder(rungs, damaged["damage"]),
            "direction": chosen.direction, "kl": damaged["kl"],
            "lora": lora, "third_version": third, "auc": {layer: found.readings[layer].auc for layer in found.readable},
            **stage("proof-curves", curves_key, self._curves),
            "geometry": stage("proof-geometry", keys["run"], self._geometry),
            "gates": stage("proof-gates", key_of(*settings), self._gates)["gates"],
            **stage("proof-learning", key_of(*settings, vars(chosen), SIZES, DRAWS), self._learning),
            "robustness": self._robustness() if kind == "all" else None,
            "shown_examples": self._shown_examples() if kind == "all" else None,
        }  # fmt: skip

    @cached_property
    def _valid(self) -> Prefilled:
        return Prefilled(self.engine, self.read["valid"].prompts, self.rules.trigger_id, "VALID prefill")

    @cached_property
    def _answers(self) -> Answers:
        return Answers(lambda: self.prefilled.batches, self.answered.answers["baseline"], self.rules)

    @cached_property
    def _parts(self) -> dict[str, Steered]:
        return {kind: steered_parts(self.recipe, setting) for kind, setting in self.tuned.best_of_each.items()}

    @property
    def _four(self) -> dict[str, Split]:
        return {**{name: self.read[name] for name in ("cal", "train", "valid")}, "test": self.test}

    def _rungs(self, with_lora: bool) -> tuple[dict[str, list[list[int]]], dict | None, list[dict]]:
        """Rung -> TEST's answers, what LoRA took, and the third version's settings."""
        baseline, test, rules = self.answered.answers["baseline"], self.test, self.rules
        texts, prompter = [request.text for request in test.requests], self.prompter
        given = (self.engine.model, prompter, texts, baseline, rules.ended)
        other = self.checkpoints.stage("proof-prompts", self.keys["baseline"], lambda: run_prompts(*given))
        rungs = {"baseline": baseline} | other
        lora = None
        if with_lora:
            key = key_of(self.keys["baseline"], LEARNING_RATE, self.call_writer is not None)
            lora = self.checkpoints.stage("proof-lora", key, self._lora)
            rungs[f"LoRA, rank {RANK}"] = lora.pop("answers")
        reading = self.checkpoints.stage("states-test", self.keys["run"], lambda: vars(self.prefilled.reading))
        direction, asa = self.tuned.best().direction, self.answered.answers
        said = {} if self.call_writer else {direction: asa["asa"], NECESSITY: asa["asa_paper"]}  # its calls are free
        states, seen, kept, domains = reading["states"], reading["called"], self._kept, test.domains
        steered = (states, seen, self._parts, direction, said, kept, domains, prompter, self.seed)
        rungs |= run_ladder(self._answers, *steered)
        more, third = self._third(states)
        return rungs | more, lora, third

    def _lora(self) -> dict:
        given = (self.engine, self.prompter, self.rules, self.read["cal"] + self.read["train"], self.read["valid"])
        return answer_by_lora(*given, self.test, self.seed, grammar=self.call_writer is not None)

    def _calls(self, rungs: dict, lora: dict | None) -> dict | None:
        """Rung -> how far the requests that need a tool get; None where calls are written freely."""
        if self.call_writer is None:
            return None
        free = {"baseline": rungs["baseline"], "ASA": rungs[whole(rungs, self.tuned.best().direction)]}
        given = (self.test, self.answered.decisions, self.sure, self.call_writer, self._kept)
        written = call_rungs(free, self.answered.answers["asa"], rungs[FORCED], *given)
        if lora:
            written |= {name: rungs[name] for name in rungs if name.startswith("LoRA")}
            written["LoRA + grammar"] = lora.pop("under_grammar")
        return rungs_scored(written, self.test, self.call_writer, self.references)

    def _kept(self, name: str, ask: Callable[[], list[list[int]]], setting: dict | None = None) -> list[list[int]]:
        """A rung's answers, a checkpoint each: there are many, and each takes minutes."""
        of = [] if setting is None else [setting]  # where it has one of its own
        key = key_of(self.keys["test"], settings_to_json(self.tuned.best_of_each.values()), name, *of)
        place = "-".join(re.findall(r"[\w+-]+", name))
        return self.checkpoints.stage(f"ladder/{place}", key, lambda: {"answers": ask()})["answers"]

    def _damage(self, rungs: dict) -> dict:
        """What became of TEST's answers in words on every rung; how far the next token's distribution moved."""
        direction, reading = self.tuned.best().direction, self.prefilled.reading
        return run_damage(rungs, self._answers, self.test, reading, self._parts, direction, self.seed)

    def _third(self, states: np.ndarray) -> tuple[dict[str, list[list[int]]], list[dict]]:
        """The rungs of the paper's third version, and their settings; `states` `[N, layers, H]` are TEST's."""
        answers, best, valid = self._answers, self.tuned.best_of_each, self.read["valid"]
        read_at = {kind: setting.layer for kind, setting in best.items()}
        third = ThirdVersion(self.recipe, self.layers, self.found.readable, read_at, self.rules.trigger_id)
        key, stage = key_of(self.keys["readers"], self.found.to_json(), self.layers, read_at), self.checkpoints.stage

        def to_json(found: list[ThirdSetting]) -> dict:
            return {"settings": settings_to_json(found)}

        kept = stage("proof-third", key, lambda: to_json(third.tuned(self._valid.batches, valid)))
        rules = self.rules
        more = stage("proof-cascades", key, lambda: to_json(third.tuned_cascades(self._valid.batches, valid, rules)))
        settings = [ThirdSetting(**setting) for setting in kept["settings"] + more["settings"]]
        rungs = {of.rung: self._kept(of.rung, partial(third.answers, of, states, answers), vars(of)) for of in settings}
        return rungs, settings_to_json(settings)

    def _ladder(self, rungs: dict, damage: dict) -> dict:
        """Rung -> scores, tests, validity and damage."""
        probe = np.array([decision.p_tool >= 0.5 for decision in self.answered.decisions])
        given = (probe, self.test.labels, damage, self.tuned.best().direction, self.rules)
        return score_ladder(rungs, *given, self.prompter.tools, self.seed)

    def _curves(self) -> dict:
        """What the push does as it grows, at three layers, and at its best dose at every layer."""
        valid, rules, recipe, tau = self.read["valid"], self.rules, self.recipe, self.tuned.best().tau
        reading, batches = self._valid.reading, self._valid.batches
        given, readable = (batches, reading.states, valid.labels), self.found.readable
        readers = {layer: recipe.readers(layer) for layer in readable}
        directions = {(kind, layer): recipe.directions(kind, layer) for kind in DIRECTIONS for layer in readable}
        drawn = {layer: readers[layer] for layer in drawn_layers(self.layers, self.tuned.best().layer)}
        fitting = partial(fitting_calls, batches, rules, self.prompter.tools)
        return {
            "doses": dose_curves(*given, drawn, directions, tau, rules.trigger_id, fitting),
            "layers": layer_curve(*given, readers, directions, tau, rules.trigger_id),
        }

    def _geometry(self) -> dict:
        """Cosines of both directions with each other and with the trigger's row of the output matrix, by layer."""
        cal, row = self.read["cal"], output_row(self.engine.model, self.rules.trigger_id)
        return geometry(cal.states, cal.labels, cal.called, cal.log_odds, cal.domains, self.recipe.domains, row)

    def _gates(self) -> dict:
        """Other gates at the chosen layer, on VALID and by cross-validation."""
        found, layer = self.found, self.tuned.best().layer
        others = [other for other in self.found.readable if other != layer] or self.found.readable
        second = max(others, key=lambda other: found.readings[other].auc)  # of a pair of layers, beside the chosen one
        fit, spare = self.read["cal"] + self.read["train"], self.read["spare"]
        judged = fit + self.read["valid"]
        rest = (spare.states, spare.labels, np.array(spare.domains, dtype=str))
        rows = (judged.states, judged.labels, np.array(judged.domains), np.arange(len(judged)) < len(fit))
        probe = (found.strength, found.own)
        return {"gates": compare_gates(*rows, layer, second, self.recipe.domains, *probe, self.seed, rest)}

    def _learning(self) -> dict:
        """TEST's scores against the number of labels."""
        fit, probe = self.read["cal"] + self.read["train"], (self.found.strength, self.found.own)
        given = (self.prefilled, self.tuned.best(), self.recipe.domains, probe, self.rules.trigger_id, self.seed)
        return {"learning": learning_curve(fit, self.test.labels, *given)}

    def _robustness(self) -> dict:
        """Other splits, domains left out, wrong labels, keyword labels, a wanted FPR, the original's protocol."""
        found, chosen, best = self.found, self.tuned.best(), self.tuned.best_of_each

        def compute() -> dict:
            everyone, asked, rows = pooled(self._four)
            pool = read_prompts(self.engine, asked, self.rules.trigger_id, "all prefill")
            layers, probe = {kind: setting.layer for kind, setting in best.items()}, (found.strength, found.own)
            trigger_id, names = self.rules.trigger_id, self.recipe.domains
            return run_robustness(everyone, rows, *pool, names, layers, chosen.direction, probe, trigger_id, self.seed)

        key = key_of(self.keys["readers"], found.to_json(), vars(chosen), settings_to_json(best.values()))
        return self.checkpoints.stage("proof-robustness", key, compute)

    def _shown_examples(self) -> list[dict]:
        """TEST under prompts with other numbers of examples, without and with steering."""
        layers = {kind: setting.layer for kind, setting in self.tuned.best_of_each.items()}
        chosen = (layers, self.tuned.best().direction, (self.found.strength, self.found.own))
        given = (self.engine.model, self.prompter, self._four, self.recipe.domains, *chosen)
        key = key_of(self.keys["readers"], EXAMPLES, *chosen)
        return self.checkpoints.stage("proof-examples", key, lambda: {"prompts": try_shown_examples(*given)})["prompts"]
