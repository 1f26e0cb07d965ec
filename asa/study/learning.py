"""Learning: how many labelled requests the readers and directions need.

They are fitted anew on a few of CAL's and TRAIN's requests, drawn several times; layer, direction, dose, beta and tau
stay as the whole run chose them. TEST is scored by the model's next token after the push, and nothing is chosen on it.
"""

import numpy as np

from asa.data.splits import ReadSplit
from asa.engine.states import Prefilled
from asa.method.recipe import Recipe
from asa.method.tuning import Setting
from asa.study.trials import Part, p_needed, rates, steered, summary
from asa.support.processes import progress

SIZES = (4, 8, 16, 32, 64)  # labelled requests of each label and tool
DRAWS = 5


def learning_curve(
    fit: ReadSplit,
    labels: np.ndarray,
    prefilled: Prefilled,
    setting: Setting,
    domains: list[str],
    probe: tuple[float, float],
    trigger_id: int,
    seed: int,
) -> list[dict]:
    """F1 and false-positive rate of ASA, and of the probe's own decision, on TEST against the number of labels.

    Args:
        fit: CAL and TRAIN, read; what is drawn from.
        labels: `[n]`, TEST's.
        prefilled: TEST's prompts, read.
        setting: The chosen one.
        domains: Names in order.
        probe: C of the probes and freedom of a domain's.
        trigger_id: First token of the trigger.
        seed: Of the draws; the requests of a smaller size are among those of the larger ones.

    Returns:
        A point a size: `size`, `draws` (a draw each: `asa` and `probe` -> `f1`, `fpr`), and `summary` (run -> measure
        -> `mean`, `std`). A size that a domain and label has too few requests for is left out.
    """
    cells = fit.cells(domains)
    sizes = [size for size in SIZES if size <= min(map(len, cells))]
    test = Part(np.arange(len(labels)), prefilled.reading, prefilled.batches)
    rng = np.random.default_rng(seed)
    orders = [[rng.permutation(cell) for cell in cells] for _ in range(DRAWS)]
    points = []
    for size in progress(sizes, desc="labels", unit="size"):
        draws = []
        for order in orders:
            some = fit.chosen(np.concatenate([rows[:size] for rows in order]))
            recipe = Recipe(some, some, domains, *probe)
            called = {
                "asa": steered(trigger_id, test, recipe, setting, None),
                "probe": p_needed(test, recipe, setting.layer) >= 0.5,
            }
            draws.append({run: rates(calls, labels) for run, calls in called.items()})
        points.append({"size": size, "draws": draws, "summary": summary(draws, ())})
    return points
