"""The third version of the paper, as rungs: what it changes in the method, each at its own best setting on VALID.

- `shared and residual`: one vector for all domains, and of a domain's own vector only what is not in that one.
- `readiness`: a second probe reads whether the model is about to call. A request is pushed toward a call where the need
  is high and the readiness low, and never away; `readiness, both ways` also pushes away in the opposite case.
- `cascade`: several blocks in a row are pushed, at every step (`cascade`).

All are tuned like the method, by the next token after the push; a cascade, which goes on behind it, also by the tokens
in which a call begins. Nothing is chosen here for the adapter. After arXiv 2602.04935 v3, as far as its text says; what
it leaves open is tried.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from asa.data.scores import confusion
from asa.data.splits import ReadSplit
from asa.engine.batch import Batch
from asa.method.directions import DIRECTIONS, ENOUGH, GLOBAL, mixed, unit
from asa.method.recipe import Recipe
from asa.method.steering import gates, push_along
from asa.method.tuning import TAUS, Setting, best_setting, pushed_calls
from asa.models.answers import AnswerRules
from asa.study.cascade import Cascade, cascade_answers, cascade_triggers
from asa.study.ladder import Answers
from asa.support.processes import progress
from asa.support.threads import one_thread

RESIDUAL, READY, READY_BOTH, CASCADE = "shared and residual", "readiness", "readiness, both ways", "cascade"
RESIDUAL_SHARES = (0.5, 1.0)  # of a domain's residual beside the shared vector; 0 is the ladder's "global only"
LIMITS = (0.1, 0.3, 0.5, 0.7, 0.9)  # readiness that still counts as low
BLOCKS, LENGTHS, CASCADE_BETAS = (3, 6), (0.05, 0.1, 0.15), (0.0, 1.0)  # the paper: 3 to 6 blocks, 15 % at most


@dataclass(frozen=True)
class ThirdSetting(Setting):
    """The setting of one rung; `beta` is the residual's share, `dose` a cascade's length and `layer` its first block.

    Attributes:
        idea: Which rung.
        limit: Readiness that still counts as low; 1 where it is not asked for.
        blocks: How many blocks are pushed.
        read_at: Layer whose state the gate reads.
    """

    idea: str = ""
    limit: float = 1.0
    blocks: int = 1
    read_at: int = 0

    @property
    def rung(self) -> str:
        """Its name on the ladder."""
        return f"{self.direction}: {self.idea}"


def with_residuals(directions: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Domain (and `global`) -> unit(u_s + share * r_d), where u_s is the global vector and r_d = u_d - (u_d . u_s) u_s.

    >>> vectors = {"global": np.array([1.0, 0.0]), "math": np.array([0.6, 0.8])}
    >>> [round(float(number), 3) for number in with_residuals(vectors, 1.0)["math"]]
    [0.781, 0.625]
    """
    shared = directions[GLOBAL]
    return {name: unit(shared + share * (own - (own @ shared) * shared)) for name, own in directions.items()}


def ready_gate(need: np.ndarray, ready: np.ndarray, setting: ThirdSetting) -> np.ndarray:
    """Gate `[N]`: 0 wherever need and readiness agree.

    >>> setting = ThirdSetting("action", 1, 0.5, 0.0, 0.7, idea=READY_BOTH, limit=0.3)
    >>> ready_gate(np.array([0.9, 0.9, 0.1, 0.1]), np.array([0.2, 0.8, 0.9, 0.1]), setting).tolist()
    [1, 0, -1, 0]
    """
    gate = gates(need, setting.tau)
    toward, away = (gate == 1) & (ready <= setting.limit), (gate == -1) & (ready >= 1 - setting.limit)
    return toward.astype(int) - (away & (setting.idea == READY_BOTH))


@dataclass(frozen=True)
class ThirdVersion:
    """Tunes the rungs and lets them answer.

    Attributes:
        recipe: Fits readers and directions.
        layers: Where steering is tried.
        readable: Layers whose states are not constant.
        read_at: Direction -> layer whose state a cascade's gate reads.
        trigger_id: First token of the trigger.
    """

    recipe: Recipe
    layers: list[int]
    readable: list[int]
    read_at: dict[str, int]
    trigger_id: int

    def tuned(self, batches: list[Batch], valid: ReadSplit) -> list[ThirdSetting]:
        """The best setting of every rung on VALID; without readiness where the model calls always or hardly ever."""
        tried = [*self._residuals(batches, valid), *self._readiness(batches, valid)]
        unsteered = confusion(valid.called, valid.labels)["fpr"]
        return [
            best_setting([setting for setting in tried if setting.idea == idea], unsteered, kind)
            for idea in dict.fromkeys(setting.idea for setting in tried)
            for kind in DIRECTIONS
        ]

    def tuned_cascades(self, batches: list[Batch], valid: ReadSplit, rules: AnswerRules) -> list[ThirdSetting]:
        """The best cascade along each direction; none where too few blocks lie below the last.

        Of every length the best is found by the next token, and the best of these by what follows it: the answers are
        generated as far as a call needs to begin, and the scores are theirs.
        """
        tried = list(self._cascades(batches, valid))
        unsteered = confusion(valid.called, valid.labels)["fpr"]
        found = []
        for kind in dict.fromkeys(setting.direction for setting in tried):  # none where no blocks fit
            of_lengths = [
                best_setting([setting for setting in tried if setting.dose == length], unsteered, kind)
                for length in LENGTHS
            ]
            judged = [self._generated(setting, batches, valid, rules) for setting in of_lengths]
            found.append(best_setting(judged, unsteered))
        return found

    def _generated(
        self, setting: ThirdSetting, batches: list[Batch], valid: ReadSplit, rules: AnswerRules
    ) -> ThirdSetting:
        """With the scores of whole calls that begin."""
        cascade, called = self._cascade(setting, valid.states), valid.called.copy()
        said = cascade_answers(batches, cascade, rules.room, rules.settled, f"VALID, {setting.rung}")
        for row, answer in said.items():
            called[row] = rules.calls(answer)
        return _scored(setting, np.ones(len(called)), called, valid)

    def answers(self, setting: ThirdSetting, states: np.ndarray, plain: Answers) -> list[list[int]]:
        """Greedy answers `[N]` under a setting, for states `[N, layers, H]`; where nothing is pushed, the unsteered."""
        if setting.idea == CASCADE:
            rules, cascade = plain.rules, self._cascade(setting, states)
            said = cascade_answers(plain.batches(), cascade, rules.limit, rules.ended, setting.rung)
            return [said.get(row, answer) for row, answer in enumerate(plain.unsteered)]
        readers, here = self.recipe.readers(setting.layer), states[:, setting.layer]
        need, directions = readers.p_tool(here), self.recipe.directions(setting.direction, setting.layer)
        gate, beta = gates(need, setting.tau), setting.beta
        if setting.idea == RESIDUAL:
            directions, beta = with_residuals(directions, setting.beta), 0.0
        else:
            gate = ready_gate(need, self._readiness_at(setting.layer, here), setting)
        push = push_along(readers, setting.dose, gate, mixed(directions, beta, readers.domains)[readers.route(here)])
        return plain.pushed(setting.layer, push, setting.rung)

    def _residuals(self, batches: list[Batch], valid: ReadSplit) -> Iterator[ThirdSetting]:
        readers = {layer: self.recipe.readers(layer) for layer in self.layers}
        need = {layer: of.p_tool(valid.states[:, layer]) for layer, of in readers.items()}
        for share in RESIDUAL_SHARES:
            directions = {place: with_residuals(of, share) for place, of in self._directions().items()}
            given = (batches, valid.states, readers, directions, self.trigger_id)
            for setting, pushed in pushed_calls(*given, betas=(0.0,)):
                for tau in TAUS:
                    found = ThirdSetting(**asdict(replace(setting, beta=share, tau=tau)), idea=RESIDUAL)
                    yield _scored(found, gates(need[setting.layer], tau), pushed, valid)

    def _readiness(self, batches: list[Batch], valid: ReadSplit) -> Iterator[ThirdSetting]:
        called = self.recipe.known.called
        if min(called.sum(), (~called).sum()) < ENOUGH:
            return
        readers = {layer: self.recipe.readers(layer) for layer in self.layers}
        need = {layer: of.p_tool(valid.states[:, layer]) for layer, of in readers.items()}
        ready = {layer: self._readiness_at(layer, valid.states[:, layer]) for layer in self.layers}
        given = (batches, valid.states, readers, self._directions(), self.trigger_id)
        grid = [(idea, tau, limit) for idea in (READY, READY_BOTH) for tau in TAUS for limit in LIMITS]
        for setting, pushed in pushed_calls(*given):
            for idea, tau, limit in grid:
                found = ThirdSetting(**asdict(replace(setting, tau=tau)), idea=idea, limit=limit)
                yield _scored(found, ready_gate(need[setting.layer], ready[setting.layer], found), pushed, valid)

    def _cascades(self, batches: list[Batch], valid: ReadSplit) -> Iterator[ThirdSetting]:
        pushable = set(self.readable) - {valid.states.shape[1] - 1}  # a push behind the last block is a logit bias
        grid = [
            ThirdSetting(kind, first, length, beta, 0.5, idea=CASCADE, blocks=blocks, read_at=at)
            for kind, at in self.read_at.items()
            for blocks in BLOCKS
            for first in (at - blocks + 1, at)  # up to the layer that is read, or from there on
            for beta in CASCADE_BETAS
            for length in LENGTHS
            if pushable.issuperset(range(first, first + blocks))
        ]
        for setting in progress(grid, desc="cascades", unit="setting"):
            need = self.recipe.readers(setting.read_at).p_tool(valid.states[:, setting.read_at])
            pushed = cascade_triggers(batches, valid.states, self._cascade(setting, valid.states), self.trigger_id)
            for tau in TAUS:
                yield _scored(replace(setting, tau=tau), gates(need, tau), pushed, valid)

    def _cascade(self, setting: ThirdSetting, states: np.ndarray) -> Cascade:
        readers, here = self.recipe.readers(setting.read_at), states[:, setting.read_at]
        gate, routed = gates(readers.p_tool(here), setting.tau).astype(np.float32), readers.route(here)
        blocks = range(setting.layer, setting.layer + setting.blocks)
        directions = [self.recipe.directions(setting.direction, block) for block in blocks]
        vectors = np.stack([mixed(of, setting.beta, readers.domains)[routed] for of in directions], axis=1)
        return Cascade(setting.layer, gate[:, None, None] * vectors, setting.dose)

    def _directions(self) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        return {(kind, layer): self.recipe.directions(kind, layer) for kind in DIRECTIONS for layer in self.layers}

    @one_thread()
    def _readiness_at(self, layer: int, states: np.ndarray) -> np.ndarray:
        """P(the unsteered model's next token opens a call | z) `[N]`, for states `[N, H]`."""
        known, scaler = self.recipe.known, self.recipe.readers(layer).scaler
        probe = LogisticRegression(C=self.recipe.strength, max_iter=1000)
        probe.fit(scaler.transform(known.states[:, layer]), known.called)
        return probe.predict_proba(scaler.transform(states))[:, 1]


def _scored(setting: ThirdSetting, gate: np.ndarray, pushed: np.ndarray, valid: ReadSplit) -> ThirdSetting:
    """With its scores on VALID: `pushed` `[N]` where the gate `[N]` is not 0, else what the model does unsteered."""
    scores = confusion(np.where(gate != 0, pushed, valid.called), valid.labels)
    return replace(setting, f1=scores["f1"], fpr=scores["fpr"])
