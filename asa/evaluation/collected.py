"""What a run found, put together as `Results`. Nothing is computed on a model here, and nothing is chosen."""

import numpy as np
import torch

from asa.adapter import ASAAdapter
from asa.data.references import Reference
from asa.data.splits import Split
from asa.engine.linears import one_dnn_is_faster
from asa.evaluation.answered import RUNS, Answered
from asa.evaluation.calls import call_steps
from asa.evaluation.metrics import gap_closed, mcnemar, trigger_metrics
from asa.evaluation.results import Benchmark, Chosen, Paired, Readings, Results, Run, Scores, Tuning
from asa.evaluation.targets import target_rates
from asa.evaluation.validity import call_validity
from asa.method.directions import NECESSITY
from asa.method.recipe import Recipe, Sweep, Tuned
from asa.models.answers import AnswerRules
from asa.models.fingerprint import weights_key
from asa.models.layout import CausalModel
from asa.models.profiles import Profile
from asa.support.environment import versions
from asa.support.files import code_key
from asa.tools.definitions import Tool


def called_by(answered: Answered, rules: AnswerRules) -> dict[str, np.ndarray]:
    """Run -> `[N]` bool, whether each TEST answer calls; `probe` is the adapter's decision alone."""
    called = {run: rules.called(answered.answers[run]) for run in RUNS}
    return called | {"probe": np.array([decision.p_tool >= 0.5 for decision in answered.decisions])}


def run_of(profile: Profile, model: str, benchmark: str, n_test: int, made_with: dict[str, str | int]) -> Run:
    """What is run: the profile, where its weights came from, the benchmark and how many TEST requests it has."""
    limits = profile.max_new_tokens, profile.words_limit
    return Run(profile.name, model, Benchmark(benchmark, n_test), *limits, made_with)


def made_with(model: CausalModel, requests: str, prompt: str, asked: dict[str, str]) -> dict[str, str | int]:
    """What numbers may depend on.

    These are versions, the device and its arithmetic, keys of weights, requests, prompt and the package's own code, and
    the options `asked` for.
    """
    found: dict[str, str | int] = {
        "device": model.device.type, "dtype": str(model.dtype), "threads": torch.get_num_threads(),
        "arithmetic": torch.backends.cpu.get_cpu_capability() + (", oneDNN" if one_dnn_is_faster() else ""),
        "weights": weights_key(model)[:16],
        "requests": requests, "prompt": prompt, "code": code_key(),
    }  # fmt: skip
    return {**versions(), **found, **asked}


def collect_results(
    answered: Answered,
    called: dict[str, np.ndarray],
    test: Split,
    found: Sweep,
    recipe: Recipe,
    tuned: Tuned,
    adapter: ASAAdapter,
    rules: AnswerRules,
    tools: dict[str, Tool],
    references: dict[str, Reference],
    kinds: list[str],
    run: Run,
    seed: int,
    tool_choice: dict,
) -> Results:
    """What TEST, VALID and the sweep say; `Results.finished` adds the study and the time.

    Args:
        answered: TEST's answers.
        called: Of `called_by`.
        test: TEST.
        found: Where the need can be read.
        recipe: How readers and directions were fitted.
        tuned: What was tried on VALID.
        adapter: Of the chosen setting.
        rules: What belongs to answers.
        tools: Known tools.
        references: What right calls give.
        kinds: What each block is, such as `full_attention`.
        run: Of `run_of`.
        seed: Of the bootstrap.
        tool_choice: As in `Tuning`.
    """
    labels, domains, chosen = test.labels, recipe.domains, tuned.best()
    first = {name: np.array([ids[0] == rules.trigger_id for ids in answered.answers[name]]) for name in RUNS}
    texts = {name: [rules.text(ids) for ids in answered.answers[name]] for name in RUNS}
    here = {domain: np.array(test.domains) == domain for domain in domains}
    scores = {name: trigger_metrics(called[name], labels, seed) for name in ("baseline", "probe", "asa", "asa_paper")}
    f1, best = {name: scores[name]["f1"] for name in scores}, found.readings[found.plateau]
    return Results(
        run=run,
        chosen=Chosen(chosen.layer, chosen.direction, adapter.alpha, chosen.dose, chosen.tau, chosen.beta),
        scores=Scores(
            test=scores,
            gap_closed=gap_closed(f1["asa"], f1["baseline"], f1["probe"]),
            gap_closed_paper=gap_closed(f1["asa_paper"], f1["baseline"], f1["probe"]),
            mcnemar=Paired(**mcnemar(called["baseline"], called["asa"], labels)),
            mcnemar_paper=Paired(**mcnemar(called["asa_paper"], called["asa"], labels)),
            first_token={name: trigger_metrics(first[name], labels, seed) for name in RUNS},
            per_domain={
                name: {domain: trigger_metrics(called[name][rows], labels[rows], seed) for domain, rows in here.items()}
                for name in ("baseline", "asa")
            },
            validity={name: call_validity(texts[name], tools, rules.markers) for name in RUNS},
            target_fpr=target_rates(adapter, answered.decisions, labels),
            calls={name: call_steps(test.requests, texts[name], tools, rules.markers, references) for name in RUNS},
            ablations={
                name: trigger_metrics(np.array(outcome), labels, seed) for name, outcome in answered.ablations.items()
            },
        ),
        tuning=Tuning(
            paper_setting=vars(tuned.best(NECESSITY)),
            settings_scored=len(tuned.settings),
            valid={"f1": chosen.f1, "fpr": chosen.fpr},
            valid_generated=tuned.generated,
            tool_choice=tool_choice,
        ),
        readings=Readings(
            layers=[vars(reading) | {"kind": kinds[reading.layer]} for reading in found.readings],
            layer_plateau=found.plateau,
            auc_plateau=best.auc,
            shuffled_plateau=best.shuffled,
            length_auc=found.length,
            constant_note=found.constant_note,
            domains=domains,
            cosines={kind: matrix.tolist() for kind, matrix in recipe.cosines(chosen.layer).items()},
            probe={"C": found.strength, "own": found.own},
        ),
        seed=seed,
        adapter_bytes=sum(array.nbytes for array in adapter.arrays.values()),
        proof=None,
        stage_seconds={},
        seconds=0.0,
    )
