"""Calibration: how far requests that need no tool reach up in p_tool, and how far down those that need one.

From requests that the readers did not learn from: VALID, and every part of what they did learn from as readers see it
that were fitted to the other parts. It travels with an adapter as quantiles, from which `ASAAdapter.with_target_fpr`
takes its threshold. Nothing is chosen here.
"""

import numpy as np
from sklearn.model_selection import StratifiedKFold

from asa.data.splits import ReadSplit
from asa.method.probes import fit_readers
from asa.method.recipe import Recipe

TARGETS = (0.02, 0.05, 0.1)  # shares of false calls that are reported
PARTS = 5
QUANTILES = 101


def held_back(recipe: Recipe, valid: ReadSplit, layer: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """p_tool `[N]` at a layer of requests that the readers did not learn from, and their labels `[N]`.

    Args:
        recipe: Its readers, and what they learn from.
        valid: VALID, read.
        layer: The readers' layer.
        seed: Of the parts.
    """
    known, domains = recipe.known, np.array(recipe.known.domains)
    states, found = known.states[:, layer], np.zeros(len(known))
    cells = [f"{domain} {label}" for domain, label in zip(domains, known.labels, strict=True)]
    smallest = min(cells.count(cell) for cell in set(cells))
    for rest, part in StratifiedKFold(min(PARTS, smallest), shuffle=True, random_state=seed).split(states, cells):
        given = (states[rest], known.labels[rest], domains[rest].tolist(), recipe.domains, recipe.strength, recipe.own)
        found[part] = fit_readers(*given).p_tool(states[part])
    of_valid = recipe.readers(layer).p_tool(valid.states[:, layer])
    return np.concatenate([found, of_valid]), np.concatenate([known.labels, valid.labels])


def calibration(p_tool: np.ndarray, labels: np.ndarray) -> dict[str, list[float]]:
    """Quantiles, evenly spaced from lowest to highest, of p_tool `[N]` where a tool is needed and where none is.

    >>> found = calibration(np.array([0.0, 0.5, 1.0, 0.9]), np.array([0, 0, 0, 1]))
    >>> found["unneeded"][50], len(found["needed"])
    (0.5, 101)
    """
    at = np.linspace(0, 1, QUANTILES)
    return {
        name: np.quantile(p_tool[labels == label], at).tolist()  # not rounded: many lie near 0 or 1
        for name, label in (("unneeded", 0), ("needed", 1))
    }
