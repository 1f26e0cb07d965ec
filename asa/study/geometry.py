"""Geometry: how the two steering directions lie to each other and to the trigger's row of the output matrix.

Cosines, layer by layer. Near 1 between `necessity` and `action`: what the prompt needs and what the model is about to
do are one direction there, and pushing along either does the same. Near 1 with the trigger's row: a push is hardly
more than a bias on one token's logit. What a push really does is measured elsewhere, by replay.
"""

import numpy as np
import torch

from asa.method.directions import ACTION, DIRECTIONS, GLOBAL, NECESSITY, fit_directions, unit
from asa.method.layers import is_constant
from asa.models.layout import CausalModel, final_norm


def geometry(
    states: np.ndarray,
    labels: np.ndarray,
    called: np.ndarray,
    log_odds: np.ndarray,
    domains: list[str],
    names: list[str],
    trigger_row: np.ndarray,
) -> dict:
    """Cosines between directions at every layer.

    Args:
        states: `[N, layers, H]`, CAL.
        labels: `[N]`, 0 or 1.
        called: `[N]` bool, whether the unsteered model's next token opens a call.
        log_odds: `[N]`, log-odds of that token.
        domains: Each row's domain.
        names: Domain names.
        trigger_row: `[H]`, the trigger's row of the output matrix less the mean row, behind the final norm's gains: the
            direction in which a state must move for the trigger's logit to rise.

    Returns:
        `necessity_action`, `necessity_trigger`, `action_trigger`: `global` and every domain -> a cosine a layer; None
        at a layer that is the same for all prompts.
    """
    row = unit(np.asarray(trigger_row, np.float32))
    pairs: dict[str, list] = {f"{NECESSITY}_{ACTION}": [], f"{NECESSITY}_trigger": [], f"{ACTION}_trigger": []}
    for layer in range(states.shape[1]):
        here = states[:, layer]
        if is_constant(here):
            for cosines in pairs.values():
                cosines.append(dict.fromkeys([GLOBAL, *names]))
            continue
        both = {kind: fit_directions(kind, here, labels, domains, called, log_odds, names) for kind in DIRECTIONS}
        of = {kind: {name: both[kind][name] for name in [GLOBAL, *names]} for kind in DIRECTIONS}
        of["trigger"] = dict.fromkeys([GLOBAL, *names], row)
        for pair, cosines in pairs.items():
            first, second = pair.split("_")
            cosines.append({name: float(of[first][name] @ of[second][name]) for name in [GLOBAL, *names]})
    return {pair: {name: [at[name] for at in rows] for name in [GLOBAL, *names]} for pair, rows in pairs.items()}


def output_row(model: CausalModel, token: int) -> np.ndarray:
    """The output matrix's row of a token less the mean row, scaled by the final norm's gains, `[H]` fp32."""
    rows = model.get_output_embeddings().weight.detach()
    with torch.inference_mode():
        return final_norm(model)((rows[token] - rows.mean(dim=0))[None])[0].float().cpu().numpy()
