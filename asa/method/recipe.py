"""The recipe: find the layers, fit readers and directions, tune by steering, make the adapter.

The one place where the steps of the method stand in order; the pipeline, the study and the benchmarks follow it. TEST
never comes here.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from asa.adapter import ASAAdapter
from asa.data.scores import confusion
from asa.data.splits import ReadSplit
from asa.engine.answering import answer_steered
from asa.engine.states import Prefilled
from asa.method.directions import DIRECTIONS, cosine_matrix, fit_directions, mixed
from asa.method.layers import LayerReading, layers_to_steer, length_control, plateau_layer, sweep_layers
from asa.method.probes import Readers, choose_probe, fit_readers
from asa.method.tuning import Setting, best_setting, settings_to_json, sweep_settings
from asa.models.answers import AnswerRules


@dataclass(frozen=True)
class Sweep:
    """Where the need for a tool can be read.

    Attributes:
        readings: Of every layer.
        length: AUC of a probe that sees only the prompt's length.
        strength: C of the probes (larger means weaker regularisation), chosen on VALID.
        own: How freely a domain's probe may differ from the common one, chosen on VALID.
    """

    readings: list[LayerReading]
    length: float
    strength: float
    own: float

    @property
    def plateau(self) -> int:
        """The paper's L*."""
        return plateau_layer(self.readings)

    @property
    def readable(self) -> list[int]:
        """The layers that are not constant."""
        return [reading.layer for reading in self.readings if not reading.constant]

    @property
    def constant_note(self) -> str:
        """A sentence on the constant layers."""
        blind = [reading.layer for reading in self.readings if reading.constant]
        return f"Left out, the same state for every prompt: layers {blind}." if blind else "No layer is constant."

    def to_json(self) -> dict[str, Any]:
        """As a plain object, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Sweep":
        """What `to_json` gave."""
        return cls(**(value | {"readings": [LayerReading(**reading) for reading in value["readings"]]}))

    def in_words(self) -> str:
        """What it says, as sentences."""
        best = self.readings[self.plateau]
        return (
            f"The need for a tool can be read best up to layer {self.plateau}: AUC {best.auc:.3f}, with shuffled "
            f"labels {best.shuffled:.3f}, from the prompt's length alone {self.length:.3f}. {self.constant_note}"
        )


def sweep(fit: ReadSplit, known: ReadSplit, valid: ReadSplit, domains: list[str], by_hand: str, seed: int) -> Sweep:
    """AUC of every layer, the two controls, and the probes' regularisation where one may steer, all on VALID.

    Args:
        fit: CAL and TRAIN, read.
        known: These and the spare requests: what the readers learn from.
        valid: VALID, read.
        domains: Names in order.
        by_hand: Layers separated by commas, or "".
        seed: Of the label shuffle.
    """
    readings = sweep_layers(fit.states, fit.labels, valid.states, valid.labels, seed)
    layer = max(layers_to_steer(readings, by_hand), key=lambda layer: readings[layer].auc)
    rows = (known.states[:, layer], known.labels, known.domains, valid.states[:, layer], valid.labels)
    length = length_control(fit.lengths, fit.labels, valid.lengths, valid.labels)
    return Sweep(readings, length, *choose_probe(*rows, domains))


class Recipe:
    """Fits readers and directions at whatever layer they are asked for, once each.

    Args:
        cal: CAL, read: what the directions come from.
        known: What the readers learn from.
        domains: Names in order.
        strength: C of the probes.
        own: How freely a domain's probe may differ from the common one.
    """

    def __init__(self, cal: ReadSplit, known: ReadSplit, domains: list[str], strength: float, own: float):
        self.cal, self.known, self.domains, self.strength, self.own = cal, known, domains, strength, own
        self._fitted: dict[tuple, Any] = {}

    def readers(self, layer: int) -> Readers:
        """Scaler, router and probes of a layer."""
        return self._once(("readers", layer), lambda: self._fit_readers(layer, self.own))

    def shared_readers(self, layer: int) -> Readers:
        """The same with one probe for all domains."""
        return self._once(("shared", layer), lambda: self._fit_readers(layer, 0.0))

    def directions(self, kind: str, layer: int) -> dict[str, np.ndarray]:
        """Domain (and `global`) -> unit vector `[H]`."""
        cal = self.cal
        rows = (cal.labels, cal.domains, cal.called, cal.log_odds, self.domains)
        return self._once((kind, layer), lambda: fit_directions(kind, cal.states[:, layer], *rows))

    def vectors(self, setting: Setting) -> np.ndarray:
        """A setting's unit vectors, `[D, H]`."""
        return mixed(self.directions(setting.direction, setting.layer), setting.beta, self.domains)

    def cosines(self, layer: int) -> dict[str, np.ndarray]:
        """Direction -> cosines between the domains' vectors, `[D, D]`."""
        return {kind: cosine_matrix(self.directions(kind, layer), self.domains) for kind in DIRECTIONS}

    def adapter(self, setting: Setting, facts: dict[str, Any]) -> ASAAdapter:
        """The adapter of a setting; `facts` says for what model, prompt, tools and data it is."""
        readers = self.readers(setting.layer)
        config = facts | {
            "layer": setting.layer, "L_star": setting.layer, "direction": setting.direction, "dose": setting.dose,
            "alpha": setting.dose * readers.mean_norm, "tau": setting.tau, "beta": setting.beta,
            "domains": self.domains, "weighs_probes": True, "method": "arXiv 2602.04935 v1/v2",
            "valid": {"f1": setting.f1, "fpr": setting.fpr},
        }  # fmt: skip
        return ASAAdapter.from_readers(readers, self.vectors(setting), config)

    def _fit_readers(self, layer: int, own: float) -> Readers:
        rows = (self.known.states[:, layer], self.known.labels, self.known.domains)
        return fit_readers(*rows, self.domains, self.strength, own)

    def _once(self, key: tuple, fit: Callable[[], Any]) -> Any:
        if key not in self._fitted:
            self._fitted[key] = fit()
        return self._fitted[key]


@dataclass(frozen=True)
class Tuned:
    """What was tried on VALID.

    Attributes:
        settings: All of them, scored by the next token after the push.
        unsteered: `confusion` of the unsteered model.
        generated: `confusion` of the best, confirmed by generation.
    """

    settings: list[Setting]
    unsteered: dict
    generated: dict

    def best(self, direction: str | None = None) -> Setting:
        """The best setting; of one direction where given."""
        return best_setting(self.settings, self.unsteered["fpr"], direction)

    @property
    def best_of_each(self) -> dict[str, Setting]:
        """Direction -> its best setting."""
        return {kind: self.best(kind) for kind in DIRECTIONS}

    def to_json(self) -> dict[str, Any]:
        """As a plain object, for a checkpoint."""
        return vars(self) | {"settings": settings_to_json(self.settings)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Tuned":
        """What `to_json` gave."""
        return cls(**(value | {"settings": [Setting(**setting) for setting in value["settings"]]}))

    def in_words(self) -> str:
        """What it says, as sentences."""
        plain, said = self.unsteered, self.generated
        each = [
            f"The best {kind} setting pushes layer {s.layer} by dose {s.dose} (beta {s.beta}, tau {s.tau}): "
            f"F1 {s.f1:.3f}, FPR {s.fpr:.3f}."
            for kind, s in self.best_of_each.items()
        ]
        return (
            f"{len(self.settings)} settings were tried. Without steering VALID has F1 {plain['f1']:.3f} and FPR "
            f"{plain['fpr']:.3f}.\n" + "\n".join(each) + f"\nThe best of them, confirmed by whole answers: F1 "
            f"{said['f1']:.3f}, FPR {said['fpr']:.3f}."
        )


def tune(
    prefilled: Prefilled,
    valid: ReadSplit,
    recipe: Recipe,
    layers: list[int],
    doses: tuple[float, ...],
    betas: tuple[float, ...],
    rules: AnswerRules,
    facts: dict,
) -> Tuned:
    """Score all settings on VALID by replay; confirm the best by generating far enough to see a call begin.

    Args:
        prefilled: VALID's prompts.
        valid: VALID, read.
        recipe: Fits readers and directions.
        layers: Where steering is tried.
        doses: How strongly.
        betas: With how large a share of the global direction.
        rules: What belongs to answers.
        facts: Of the adapter, as in `Recipe.adapter`.
    """
    reading, batches = prefilled.reading, prefilled.batches
    readers = {layer: recipe.readers(layer) for layer in layers}
    directions = {(kind, layer): recipe.directions(kind, layer) for kind in DIRECTIONS for layer in layers}
    scored = sweep_settings(
        batches, reading.states, reading.called, valid.labels, readers, directions, rules.trigger_id, doses, betas
    )
    unsteered = confusion(valid.called, valid.labels)
    best = recipe.adapter(best_setting(scored, unsteered["fpr"]), facts)
    asked = (batches, reading, {"asa": best}, None, rules.room, rules.settled, "VALID, steered")
    steered, _ = answer_steered(*asked)["asa"]
    return Tuned(scored, unsteered, confusion(rules.called(steered), valid.labels))
