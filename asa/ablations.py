"""Ablations: take one part of the method away and steer again.

Each variant is scored by the model's own next token after its push, on the requests it is given; the probe is never
scored in place of the model. `full` is the chosen setting; `no gate` pushes every request toward a call; `global
only` and `domain only` set beta to 1 and 0; `random direction` has the same length and gate but a random unit
vector.
"""

import numpy as np

from asa.evaluation import trigger_metrics
from asa.probes import Readers
from asa.tuning import Setting, replay_triggers
from asa.vectors import mixed, unit


def run_ablations(
    batches, states, labels, readers: Readers, directions, setting: Setting, trigger_id: int, seed: int
) -> dict:
    """Trigger metrics of every variant, first token.

    Args:
        batches: Batches of the requests.
        states: `[N, layers, H]`.
        labels: `[N]`.
        readers: Of the setting's layer.
        directions: Domain -> unit vector, of the setting's direction and layer.
        setting: The chosen setting.
        trigger_id: First token of the trigger.
        seed: Of the random direction and the bootstrap.

    Returns:
        Variant -> `evaluation.trigger_metrics`.
    """
    here = states[:, setting.layer]
    routed, p_tool = readers.route(here), readers.p_tool(here)
    gate = np.where(np.maximum(p_tool, 1 - p_tool) >= setting.tau, np.where(p_tool >= 0.5, 1, -1), 0)
    names = readers.domains
    noise = unit(np.random.default_rng(seed).standard_normal(here.shape[1]))
    chosen = mixed(directions, setting.beta, names)
    variants = {
        "full": (gate, chosen),
        "no gate": (np.ones_like(gate), chosen),
        "global only": (gate, mixed(directions, 1.0, names)),
        "domain only": (gate, mixed(directions, 0.0, names)),
        "random direction": (gate, np.tile(noise, (len(names), 1))),
    }
    alpha = setting.dose * readers.mean_norm
    results = {}
    for name, (signs, vectors) in variants.items():
        push = (alpha * signs)[:, None].astype(np.float32) * vectors[routed]
        results[name] = trigger_metrics(replay_triggers(batches, states, setting.layer, push, trigger_id), labels, seed)
    return results
