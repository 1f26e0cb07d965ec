"""Results: everything that a run found, as `results.json` holds it.

Nothing is computed on a model here, and nothing is chosen. Every number that the report, the figures and the README
show stands in what `collect_results` returns.
"""

from typing import Any

import numpy as np

from asa.adapter import ASAAdapter
from asa.data.splits import Split
from asa.evaluation.answered import RUNS, Answered
from asa.evaluation.metrics import gap_closed, mcnemar, trigger_metrics
from asa.evaluation.validity import call_validity
from asa.method.directions import NECESSITY
from asa.method.recipe import Recipe, Tuned
from asa.models.answers import AnswerRules
from asa.models.profiles import Profile
from asa.tools.definitions import Tool


def called_by(answered: Answered, rules: AnswerRules) -> dict[str, np.ndarray]:
    """Run -> `[N]` bool, whether each TEST answer calls; `probe` is the adapter's decision alone."""
    called = {run: rules.called(answered.answers[run]) for run in RUNS}
    return called | {"probe": np.array([decision.p_tool >= 0.5 for decision in answered.decisions])}


def collect_results(
    answered: Answered,
    called: dict[str, np.ndarray],
    test: Split,
    recipe: Recipe,
    tuned: Tuned,
    adapter: ASAAdapter,
    rules: AnswerRules,
    tools: dict[str, Tool],
    kinds: list[str],
    seed: int,
) -> dict[str, Any]:
    """What TEST, VALID and the sweep say; the caller adds what it knows of the run itself.

    Args:
        answered: TEST's answers.
        called: Of `called_by`.
        test: TEST.
        recipe: How readers and directions were fitted.
        tuned: What was tried on VALID.
        adapter: Of the chosen setting.
        rules: What belongs to answers.
        tools: Known tools.
        kinds: What each block is, such as `full_attention`.
        seed: Of the bootstrap.
    """
    labels, domains, chosen, found = test.labels, recipe.domains, tuned.best(), recipe.found
    first = {run: np.array([ids[0] == rules.trigger_id for ids in answered.answers[run]]) for run in RUNS}
    texts = {run: [rules.text(ids) for ids in answered.answers[run]] for run in RUNS}
    here = {domain: np.array(test.domains) == domain for domain in domains}
    scores = {run: trigger_metrics(called[run], labels, seed) for run in ("baseline", "probe", "asa", "asa_paper")}
    f1, best = {run: scores[run]["f1"] for run in scores}, found.readings[found.plateau]
    return {
        "layer": chosen.layer, "direction": chosen.direction, "alpha": adapter.alpha, "dose": chosen.dose,
        "tau": chosen.tau, "beta": chosen.beta, "test": scores,
        "gap_closed": gap_closed(f1["asa"], f1["baseline"], f1["probe"]),
        "gap_closed_paper": gap_closed(f1["asa_paper"], f1["baseline"], f1["probe"]),
        "mcnemar": mcnemar(called["baseline"], called["asa"], labels),
        "mcnemar_paper": mcnemar(called["asa_paper"], called["asa"], labels),
        "first_token": {run: trigger_metrics(first[run], labels, seed) for run in RUNS},
        "per_domain": {
            run: {name: trigger_metrics(called[run][rows], labels[rows], seed) for name, rows in here.items()}
            for run in ("baseline", "asa")
        },
        "validity": {run: call_validity(texts[run], tools, rules.markers) for run in RUNS},
        "ablations": {
            name: trigger_metrics(np.array(outcome), labels, seed) for name, outcome in answered.ablations.items()
        },
        "paper_setting": vars(tuned.best(NECESSITY)), "settings_scored": len(tuned.settings),
        "valid": {"f1": chosen.f1, "fpr": chosen.fpr}, "valid_generated": tuned.generated,
        "layers": [vars(reading) | {"kind": kinds[reading.layer]} for reading in found.readings],
        "layer_plateau": found.plateau, "auc_plateau": best.auc, "shuffled_plateau": best.shuffled,
        "length_auc": found.length, "constant_note": found.constant_note, "domains": domains,
        "cosines": {kind: matrix.tolist() for kind, matrix in recipe.cosines(chosen.layer).items()},
        "probe": {"C": found.strength, "own": found.own}, "seed": seed,
        "adapter_bytes": sum(array.nbytes for array in adapter.arrays.values()),
    }  # fmt: skip


def with_run(
    results: dict,
    profile: Profile,
    model: str,
    benchmark: tuple[str, int],
    proof: dict | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """`results` with what is known of the run itself.

    Args:
        results: Of `collect_results`.
        profile: The model's profile.
        model: Where its weights came from.
        benchmark: Name of the benchmark and how many TEST requests it has.
        proof: What the study found, or None.
        seconds: Stage -> seconds.
    """
    return {
        "profile": profile.name, "model": model, "benchmark": dict(zip(("name", "n_test"), benchmark, strict=True)),
        "max_new_tokens": profile.max_new_tokens, "words_limit": profile.words_limit,
        **results, "proof": proof, "stage_seconds": seconds, "seconds": round(sum(seconds.values()), 2),
    }  # fmt: skip
