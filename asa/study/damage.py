"""Damage: what an intervention does to answers that it should have left alone.

Three measures on requests that need no tool: how far the next-token distribution moves (by replay), how many answers
stay the same to the token, and how likely the unsteered model finds the new answers beside its own. The distance is
KL(after || before): it is finite also where a token is forbidden or forced. Whether calls are good is `evaluation`'s
business.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from asa.data.splits import Split
from asa.engine.answering import chosen_parts
from asa.engine.batch import Batch
from asa.engine.states import Reading
from asa.evaluation.ablations import Steered, pushes
from asa.evaluation.metrics import mean_or_none, rate_of
from asa.method.steering import gates, where_it_differs
from asa.study.ladder import FORCED, Answers
from asa.support.processes import gathered


def next_token_kl(batches: list[Batch], states: np.ndarray, layer: int, push: np.ndarray) -> np.ndarray:
    """KL(steered || unsteered) of the next token in nats `[N]`, for `push` `[N, H]` at block `layer`."""
    parts: list[tuple[int, float]] = []
    for batch in batches:
        plain = torch.from_numpy(states[batch.rows, layer]).to(batch.own_mask.device)
        moved = plain + torch.from_numpy(push[batch.rows]).to(plain.device)
        before, after = (batch.replay(layer, hidden).float().log_softmax(-1) for hidden in (plain, moved))
        apart = (after.exp() * (after - before)).sum(-1)
        parts += zip(batch.rows, apart.clamp(min=0).tolist(), strict=True)
    return np.array([value for _, value in sorted(gathered(parts))])


def forced_kl(log_odds: np.ndarray, gate: np.ndarray) -> np.ndarray:
    """KL(after || before) `[N]` where the trigger's first token is forced (gate 1) or forbidden (-1), in nats.

    Forcing leaves one token, so it is -log p; forbidding leaves the rest as they were, so it is -log(1 - p).

    >>> forced_kl(np.zeros(3), np.array([1, 0, -1])).round(3).tolist()
    [0.693, 0.0, 0.693]
    """
    return np.where(gate == 0, 0.0, np.logaddexp(0, -gate * log_odds))


def kl_by_gate(apart: np.ndarray, gate: np.ndarray) -> dict[str, list]:
    """Mean of the distances `apart` `[N]` and the number of requests, gate by gate; None where there are none.

    >>> kl_by_gate(np.array([0.1, 0.3]), np.array([1, 1]))
    {'-1': [None, 0], '+0': [None, 0], '+1': [0.2, 2]}
    """
    groups = {sign: apart[gate == sign] for sign in (-1, 0, 1)}
    return {f"{sign:+d}": [mean_or_none(of), len(of)] for sign, of in groups.items()}


def likelihoods(batches: list[Batch], answers: list[list[int]], chosen: np.ndarray) -> dict[int, float]:
    """Mean log-probability per token (nats) that the unsteered model gives to the `answers` `[N]` of `chosen` rows."""
    found: list[tuple[int, float]] = []
    for part in chosen_parts(batches, chosen):
        found += zip(part.rows, part.log_likelihood([answers[row] for row in part.rows]), strict=True)
    return dict(gathered(found))


@dataclass
class Spared:
    """The requests that need no tool, and what the unsteered model says to them.

    Attributes:
        batches: All requests' batches.
        unsteered: `[N]` answers without intervention.
        rows: `[N]` bool, the requests that need no tool.
        in_words: `[N]` bool, those of them to which the unsteered answer is no call.
    """

    batches: list[Batch]
    unsteered: list[list[int]]
    rows: np.ndarray
    in_words: np.ndarray
    _known: dict[tuple, float] = field(default_factory=dict, repr=False)

    def likelihood(self, answers: list[list[int]]) -> float | None:
        """Mean over the requests of the log-probability per token (nats) that the unsteered model gives to `answers`.

        None where every request needs a tool.
        """
        keys = {row: (row, *answers[row]) for row in np.flatnonzero(self.rows).tolist()}
        new = np.zeros(len(answers), bool)
        new[[row for row, key in keys.items() if key not in self._known]] = True
        found = likelihoods(self.batches, answers, new)
        self._known |= {keys[row]: value for row, value in found.items()}
        return mean_or_none([self._known[key] for key in keys.values()])

    def damage(self, answers: list[list[int]]) -> dict:
        """What became of their answers under an intervention, `[N]` answers.

        Returns:
            `unchanged`: share that is the same to the token, a `rate_of`; `words_kept`: the same of `in_words`;
            `log_p`: of `answers`, by `likelihood`.
        """
        same = np.array([answer == before for answer, before in zip(answers, self.unsteered, strict=True)])
        unchanged, words_kept = (rate_of(int(same[rows].sum()), int(rows.sum())) for rows in (self.rows, self.in_words))
        return {"unchanged": unchanged, "words_kept": words_kept, "log_p": self.likelihood(answers)}


def run_damage(
    rungs: dict[str, list[list[int]]],
    answers: Answers,
    test: Split,
    reading: Reading,
    steered: dict[str, Steered],
    main: str,
    seed: int,
) -> dict:
    """What became of TEST's answers in words on every rung, and how far the next token's distribution moved.

    Args:
        rungs: Rung -> answers `[N]`.
        answers: Of the unsteered model.
        test: TEST.
        reading: What the unsteered model holds of it.
        steered: Direction -> its parts.
        main: The direction whose gate forcing the trigger obeys.
        seed: Of random directions.

    Returns:
        `damage`, by rung, and `kl`, by direction and of forcing.
    """
    spared, batches = test.labels == 0, answers.batches()  # the requests whose answers should be left alone
    left_alone = Spared(batches, answers.unsteered, spared, spared & ~answers.rules.called(answers.unsteered))
    damage, moved = {name: left_alone.damage(rung) for name, rung in rungs.items()}, {}
    for kind, parts in steered.items():
        layer = parts.setting.layer
        gate = gates(parts.readers.p_tool(reading.states[:, layer]), parts.setting.tau)
        full = pushes(parts, reading.states, test.domains, seed)["full"]
        kl = next_token_kl(batches, reading.states, layer, where_it_differs(full, gate, reading.called))
        moved[kind] = kl_by_gate(kl[spared], gate[spared])
        if kind == main:
            moved[FORCED] = kl_by_gate(forced_kl(reading.log_odds, gate)[spared], gate[spared])
    return {"damage": damage, "kl": moved}
