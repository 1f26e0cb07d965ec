"""Ablations: take one part of the method away, or put something in its place.

`pushes` gives every ablation as what it adds to the hidden state; `run_ablations` asks for the model's next token after
each, by replay, and `ladder` for whole answers. Nothing is scored by a probe, and nothing is chosen here: settings come
from VALID.
"""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from asa.engine.batch import Batch
from asa.method.directions import mixed, unit
from asa.method.probes import Readers
from asa.method.steering import gates, push_along, replay_triggers
from asa.method.tuning import Setting

LOOKING = "looking ahead"  # pushed only where gate and model disagree
RANDOM_DIRECTIONS = 3  # one could be lucky


def whole(ladder: Container[str], direction: str) -> str:
    """The rung of the whole method along a direction; ladders of earlier runs do not look ahead."""
    looking = f"{direction}: {LOOKING}"
    return looking if looking in ladder else f"{direction}: full"


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
        seed: Of the random directions.

    Returns:
        Ablation -> push `[N, H]` at the setting's layer. `full` is the method itself; `no gate` pushes every request
        toward a call; `+1 only` and `-1 only` are boolean gates; `routed probe` asks the likeliest domain's alone, as
        the paper does; `one probe` judges all domains; `oracle router` knows the domain, and asks its probe alone,
        as weighing comes to where the router is certain; `mismatched domains` takes the next domain's vector; `random
        direction 1` to `RANDOM_DIRECTIONS` have the same length; `global only` and `domain only` set beta to 1 and 0.
    """
    here, setting, names = states[:, parts.setting.layer], parts.setting, parts.readers.domains
    routed, own = parts.readers.route(here), np.array([names.index(domain) for domain in domains])
    gate, gate_routed, gate_oracle = (
        gates(parts.readers.p_tool(here, asked), setting.tau) for asked in (None, routed, own)
    )
    gate_shared = gates(parts.shared.p_tool(here), setting.tau)
    chosen = mixed(parts.directions, setting.beta, names)
    noise = np.random.default_rng(seed).standard_normal((RANDOM_DIRECTIONS, here.shape[1])).astype(np.float32)
    variants = {
        "full": (gate, chosen[routed]),
        "no gate": (np.ones_like(gate), chosen[routed]),
        "+1 only": (np.maximum(gate, 0), chosen[routed]),
        "-1 only": (np.minimum(gate, 0), chosen[routed]),
        "routed probe": (gate_routed, chosen[routed]),
        "one probe": (gate_shared, chosen[routed]),
        "oracle router": (gate_oracle, chosen[own]),
        "mismatched domains": (gate, np.roll(chosen, -1, axis=0)[routed]),
        **{f"random direction {n}": (gate, np.tile(unit(drawn), (len(gate), 1))) for n, drawn in enumerate(noise, 1)},
        "global only": (gate, mixed(parts.directions, 1.0, names)[routed]),
        "domain only": (gate, mixed(parts.directions, 0.0, names)[routed]),
    }
    return {name: push_along(parts.readers, setting.dose, *variant) for name, variant in variants.items()}


def run_ablations(
    batches: list[Batch], states: np.ndarray, parts: Steered, domains: list[str], trigger_id: int, seed: int
) -> dict[str, np.ndarray]:
    """Whether the next token opens a call after every ablation's push, by replay.

    Returns:
        Ablation -> `[N]` bool.
    """
    layer = parts.setting.layer
    return {
        name: replay_triggers(batches, states, layer, push, trigger_id)
        for name, push in pushes(parts, states, domains, seed).items()
    }
