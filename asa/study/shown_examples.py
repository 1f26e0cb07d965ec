"""Shown examples: what examples in the prompt achieve alone, and what steering adds to them.

Behind another prompt a state is another state, so readers, directions, dose, beta and tau are found anew under every
prompt; the layers and the probes' regularisation stay those of the main one. Calls are the model's next token, and
readers learn from CAL and TRAIN alone (see `trials`). Nothing is chosen on TEST.
"""

from collections.abc import Mapping

import numpy as np

from asa.data.splits import Split
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.method.directions import DIRECTIONS
from asa.models.fitting import shared_prefix
from asa.models.layout import CausalModel
from asa.models.prompts import Prompter
from asa.study.ladder import prompts_by_examples
from asa.study.robustness import pooled
from asa.study.trials import Pool, run_trial, scored_runs, take_part
from asa.support.processes import progress


def try_shown_examples(
    model: CausalModel,
    prompter: Prompter,
    splits: Mapping[str, Split],
    names: list[str],
    layers: dict[str, int],
    kind: str,
    probe: tuple[float, float],
) -> list[dict]:
    """Fit, tune and test under prompts with 0, 2, 4 and 8 examples.

    Args:
        model: The model.
        prompter: Of the main prompt.
        splits: `cal`, `train`, `valid` and `test`.
        names: Domain names.
        layers: Direction -> the layer of its best setting under the main prompt.
        kind: The direction that the pipeline chose.
        probe: (strength, own) of the readers, as chosen.

    Returns:
        A prompt each: `examples`, and of every run the `f1` and `fpr` on TEST (`trials.scored_runs`).
    """
    requests, _, rows = pooled(splits)
    labels, domains = np.array([r.label for r in requests]), np.array([r.domain for r in requests])

    def scored(shown: Prompter, count: int) -> dict:  # one prompt's caches are let go before the next one's are filled
        prompts = [shown.ids(request.text) for request in requests]
        read = read_prompts(Engine(model, shared_prefix(prompts)), prompts, shown.trigger_id, f"{count} examples")
        pool = Pool(requests, labels, domains, *read, names, layers, kind, *probe, shown.trigger_id)
        valid, test = take_part(pool, rows["valid"]), take_part(pool, rows["test"])
        trial = run_trial(pool, rows["cal"], rows["train"], valid, test, labels, DIRECTIONS)
        return {"examples": count} | scored_runs(trial, labels[test.rows])

    shown = progress(prompts_by_examples(prompter).items(), desc="examples", unit="prompt")
    return [scored(prompts, count) for count, prompts in shown]
