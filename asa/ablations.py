"""Ablations and rivals: take one part of the method away, or do something simpler, and let the model answer again.

`pushes` gives every ablation as what it adds to the hidden state; `run_ladder` lets the model answer all requests under
each of them and under the simpler rivals, by greedy generation. The same push gives the same answer, so it is asked for
once. Nothing is scored by a probe, and nothing is chosen here: settings come from VALID.

Rivals: forcing or forbidding the trigger's first token where the gate says so, without touching a hidden state; and
Probe&Prefill, which begins the answer with words that commit it (after When2Tool's method of that name).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from asa.engine import Batch
from asa.probes import Readers
from asa.profiles import Profile
from asa.running import answer_chosen
from asa.tools import Tool
from asa.tuning import Setting, gates, replay_triggers
from asa.vectors import mixed, unit

FULL = "full"
EXAMPLES = (0, 2, 4, 8)  # example turns of the prompt variants


@dataclass(frozen=True)
class Steered:
    """What one direction's ablations are made from.

    Attributes:
        setting: Its best setting on VALID.
        readers: Of the setting's layer.
        shared: The same with one probe for all domains.
        directions: Domain (and `global`) -> unit vector `[H]`.
    """

    setting: Setting
    readers: Readers
    shared: Readers
    directions: dict[str, np.ndarray]


def pushes(parts: Steered, states: np.ndarray, domains: list[str], seed: int) -> dict[str, np.ndarray]:
    """What every ablation adds to the hidden state.

    Args:
        parts: Of one direction.
        states: `[N, layers, H]`.
        domains: `[N]`, the requests' own domains; only the oracle router sees them.
        seed: Of the random direction.

    Returns:
        Ablation -> push `[N, H]` at the setting's layer. `full` is the method itself; `no gate` pushes every request
        toward a call; `+1 only` and `-1 only` are boolean gates; `one probe` judges all domains; `oracle router` knows
        the domain; `mismatched domains` takes the next domain's vector; `random direction` has the same length;
        `global only` and `domain only` set beta to 1 and 0.
    """
    here, setting, names = states[:, parts.setting.layer], parts.setting, parts.readers.domains
    routed, own = parts.readers.route(here), np.array([names.index(domain) for domain in domains])
    gate, gate_oracle, gate_shared = (
        gates(p_tool, setting.tau)
        for p_tool in (parts.readers.p_tool(here, routed), parts.readers.p_tool(here, own), parts.shared.p_tool(here))
    )
    chosen = mixed(parts.directions, setting.beta, names)
    noise = unit(np.random.default_rng(seed).standard_normal(here.shape[1]).astype(np.float32))
    variants = {
        FULL: (gate, chosen[routed]),
        "no gate": (np.ones_like(gate), chosen[routed]),
        "+1 only": (np.maximum(gate, 0), chosen[routed]),
        "-1 only": (np.minimum(gate, 0), chosen[routed]),
        "one probe": (gate_shared, chosen[routed]),
        "oracle router": (gate_oracle, chosen[own]),
        "mismatched domains": (gate, np.roll(chosen, -1, axis=0)[routed]),
        "random direction": (gate, np.tile(noise, (len(gate), 1))),
        "global only": (gate, mixed(parts.directions, 1.0, names)[routed]),
        "domain only": (gate, mixed(parts.directions, 0.0, names)[routed]),
    }
    alpha = setting.dose * parts.readers.mean_norm
    return {name: (alpha * signs)[:, None].astype(np.float32) * rows for name, (signs, rows) in variants.items()}


def run_ablations(batches, states, parts: Steered, domains: list[str], trigger_id: int, seed: int) -> dict:
    """Whether the next token opens a call after every ablation's push: the short form, by replay.

    Returns:
        Ablation -> `[N]` bool.
    """
    layer = parts.setting.layer
    return {
        name: replay_triggers(batches, states, layer, push, trigger_id)
        for name, push in pushes(parts, states, domains, seed).items()
    }


@dataclass
class Answers:
    """Greedy answers of one model to N requests, each asked for once.

    Attributes:
        batches: The requests' batches.
        unsteered: `[N]` answers without intervention.
        limit: Most new tokens.
        closed: As in `Batch.decode`.
    """

    batches: list[Batch]
    unsteered: list[list[int]]
    limit: int
    closed: Callable[[list[int]], bool]
    _known: dict[tuple, list[int]] = field(default_factory=dict, repr=False)

    def pushed(self, layer: int, push: np.ndarray, what: str) -> list[list[int]]:
        """Answers after `push` `[N, H]` at block `layer`; a push of zero leaves the unsteered answer."""
        keys = [(layer, row, push[row].tobytes()) for row in range(len(push))]
        moved = push.any(axis=1)
        new = np.array([moved[row] and key not in self._known for row, key in enumerate(keys)])
        if new.any():
            found = answer_chosen(self.batches, new, self.limit, self.closed, what, push=(layer, push))
            self._known |= {keys[row]: answer for row, answer in found.items()}
        return [self._known[key] if moved[row] else self.unsteered[row] for row, key in enumerate(keys)]

    def forced(self, gate: np.ndarray, trigger_id: int) -> list[list[int]]:
        """Answers that must begin with the trigger's first token at gate 1 and must not at gate -1."""
        up = answer_chosen(self.batches, gate == 1, self.limit, self.closed, "forced", opening=[trigger_id])
        down = answer_chosen(self.batches, gate == -1, self.limit, self.closed, "forbidden", avoid=trigger_id)
        return list((dict(enumerate(self.unsteered)) | up | down).values())

    def begun(self, openings: list[list[int]]) -> list[list[int]]:
        """Answers that begin with `openings` `[N]`; an empty one leaves the unsteered answer."""
        answers = dict(enumerate(self.unsteered))
        for opening in sorted({tuple(opening) for opening in openings if opening}):
            rows = np.array([tuple(row) == opening for row in openings])
            answers |= answer_chosen(self.batches, rows, self.limit, self.closed, "prefilled", opening=opening)
        return list(answers.values())


def with_examples_shown(profile: Profile, tools: dict[str, Tool], count: int) -> tuple[Profile, dict[str, Tool]]:
    """A prompt variant with the first `count` example turns, two a tool; `tools` have them."""
    shown = {
        name: tool if place < count // 2 else replace(tool, examples=())
        for place, (name, tool) in enumerate(tools.items())
    }
    return replace(profile, few_shot=count > 0), shown


def run_ladder(
    answers: Answers, states, steered: dict[str, Steered], domains: list[str], trigger_id: int, openings, seed: int
) -> dict[str, list[list[int]]]:
    """Let the model answer under every rival and every ablation of both directions.

    Args:
        answers: Of the requests.
        states: `[N, layers, H]`.
        steered: Direction -> its parts; the last one's gate is what the rivals obey.
        domains: `[N]`.
        trigger_id: First token of the trigger.
        openings: Gate (1 or -1) -> domain index -> tokens with which Probe&Prefill begins.
        seed: Of the random direction.

    Returns:
        Rung -> answers `[N]`; ablations are named "direction: ablation".
    """
    *_, main = steered.values()
    here = states[:, main.setting.layer]
    routed, gate = main.readers.route(here), gates(main.readers.p_tool(here), main.setting.tau)
    rungs = {"baseline": answers.unsteered, "trigger forced or forbidden": answers.forced(gate, trigger_id)}
    rungs["Probe&Prefill"] = answers.begun(
        [openings[g][d] if g else [] for g, d in zip(gate.tolist(), routed.tolist(), strict=True)]
    )
    for direction, parts in steered.items():
        for name, push in pushes(parts, states, domains, seed).items():
            rung = f"{direction}: {name}"
            rungs[rung] = answers.pushed(parts.setting.layer, push, rung)
    return rungs
