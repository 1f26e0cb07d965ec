"""The report: `results.json` as Markdown tables beside the published ones.

Every row says where it comes from. Published rows are the original project's (LFM2.5-1.2B, keyword labels, its own
protocol) and the paper's; they stand there for orientation and are not comparable number by number. No request text is
written.
"""

from collections.abc import Sequence
from pathlib import Path

from asa.evaluation.metrics import difference, gap_closed
from asa.evaluation.results import Results
from asa.evaluation.tables import (
    calls_and_jobs,
    markdown_table,
    printed,
    rate_with_interval,
    with_interval,
    with_reasons,
)
from asa.evaluation.targets import targets_section
from asa.method.directions import NECESSITY
from asa.support.files import write_atomic

OURS = "this run"
ORIGINAL = "original project, LFM2.5-1.2B"
PAPER = "paper, arXiv 2602.04935 v1/v2"
PUBLISHED_TEST = [  # label, origin, precision, recall, F1, accuracy, FPR
    ("baseline", ORIGINAL, 0.4959, 0.5656, 0.5285, 0.4953, 0.5750),
    ("ASA, alpha 1", ORIGINAL, 0.7591, 0.5219, 0.6185, 0.6781, 0.1656),
    ("Qwen2.5-1.5B baseline", PAPER, 0.4400, 0.1146, 0.1818, 0.4844, 0.1458),
    ("Qwen2.5-1.5B few-shot prompt", PAPER, 0.4348, 0.2083, 0.2817, None, 0.2708),
    ("Qwen2.5-1.5B LoRA, rank 16", PAPER, 0.5600, 0.5833, 0.5714, None, 0.4583),
    ("Qwen2.5-1.5B Q-LoRA", PAPER, 0.7328, 0.3154, 0.4696, None, 0.1193),
    ("Qwen2.5-1.5B ASA, alpha 4", PAPER, 0.8718, 0.3542, 0.5037, 0.6510, 0.0521),
    ("LLaMA-8B baseline", PAPER, 0.8407, 0.4378, 0.5759, 0.6779, 0.0839),
    ("LLaMA-8B prompt only", PAPER, 0.8627, 0.4988, 0.6238, 0.7159, 0.0829),
    ("LLaMA-8B ASA, best", PAPER, 0.9079, 0.7188, 0.8023, 0.8229, 0.0700),
]
PUBLISHED_DOMAINS = [  # domain, F1, precision, recall, FPR
    ("translation", 0.9262, 1.0000, 0.8625, 0.0000), ("math", 0.7273, 0.7568, 0.7000, 0.2250),
    ("search", 0.5410, 0.7857, 0.4125, 0.1125), ("code", 0.1565, 0.2571, 0.1125, 0.3250),
]  # fmt: skip
PUBLISHED_ABLATIONS = [  # variant, F1, FPR
    ("full", 0.8054, 0.2375), ("no gate", 0.6667, 1.0),
    ("global only", 0.8054, 0.2375), ("domain only", 0.8054, 0.2375),
]  # fmt: skip
PUBLISHED_AUC = [  # model, layers, L*, AUC, shuffled, origin
    ("Qwen2.5-0.5B", 24, 18, 0.9994, 0.4982, PAPER), ("Qwen2.5-1.5B", 28, 18, 0.9996, 0.4966, PAPER),
    ("Qwen2.5-8B", 32, 18, 0.9989, 0.4975, PAPER), ("LFM2.5-1.2B", 16, 12, 0.8856, None, ORIGINAL),
]  # fmt: skip
PUBLISHED_COSINES = [  # pair, Qwen2.5-1.5B, LFM2.5
    (("code", "math"), 0.17, -0.01), (("code", "search"), 0.37, 0.37), (("code", "translation"), 0.42, 0.02),
    (("math", "search"), 0.29, 0.30), (("math", "translation"), 0.11, 0.26), (("search", "translation"), 0.03, 0.11),
]  # fmt: skip
PUBLISHED_VALIDITY = [  # run, format, tool, arguments, origin
    ("Qwen2.5-1.5B ASA", 0.8800, 0.6923, 0.8700, PAPER),
    ("LFM2.5-1.2B ASA (its JSON parser could not read the calls)", 0.0, 0.0, 0.0, ORIGINAL),
]
RUN_LABELS = {
    "baseline": "baseline",
    "probe": "probe decision alone (steers nothing)",
    "asa_paper": "ASA, paper's direction",
    "asa": "ASA",
}


def write_report(results: Results, path: str | Path, proof: Sequence[str] = ()) -> str:
    """Write `results` as Markdown tables, with the sections of a `proof` in their place, and return the text."""
    text = "\n\n".join(_sections(results, proof)) + "\n"
    write_atomic(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    return text


def _sections(results: Results, proof: Sequence[str]) -> list[str]:
    run, chosen, scores, readings = results.run, results.chosen, results.scores, results.readings
    return [
        "# Report",
        f"Profile `{run.profile}` ({run.model}), benchmark {run.benchmark.name}: "
        f"{run.benchmark.n_test} TEST requests, greedy, at most {run.max_new_tokens} new tokens (an "
        f"answer that has opened no call is cut at {run.words_limit}), seed {results.seed}. Intervals are "
        "95 %: Wilson for rates, bootstrap over requests for F1 (none for 0 or 1). Published rows come from other data "
        "and other models; they are here for orientation.",
        "## Baseline against ASA (TEST, strict trigger in the generated tokens)",
        _test_table(scores.test),
        _in_words(results),
        "### First token against anywhere",
        _first_token_table(results),
        "## Per domain",
        _domain_table(scores.per_domain),
        *targets_section(scores.target_fpr),
        "## After the trigger: is the call any good (rates over answers that call)",
        _validity_table(scores.validity),
        *_calls_section(scores.calls, results.tuning.tool_choice),
        "## Ablations (TEST, next token after the push; the original scored its probe instead)",
        _ablation_table(scores.ablations),
        "## Where the need can be read",
        _auc_table(results),
        f"Length alone reads {printed(readings.length_auc)}. L* is the paper's plateau rule; steering was tuned to "
        f"layer {chosen.layer}. {readings.constant_note}",
        "## Cosines between the domains' directions",
        _cosine_table(results),
        *proof,
        "## Configuration",
        _configuration_table(results),
        "## Time",
        _time_table(results),
    ]


def _test_table(test: dict) -> str:
    measures = ("precision", "recall", "f1", "accuracy", "fpr")
    ours = [[label, OURS, *[with_interval(test[run], m) for m in measures]] for run, label in RUN_LABELS.items()]
    heads = ["run", "origin", "precision", "recall", "F1", "accuracy", "FPR"]
    table = markdown_table(heads, ours + [list(row) for row in PUBLISHED_TEST])
    return with_reasons(table, {label: test[run] for run, label in RUN_LABELS.items()})


def _in_words(results: Results) -> str:
    scores, chosen = results.scores, results.chosen
    base, asa = scores.test["baseline"], scores.test["asa"]
    paired, papers = scores.mcnemar, scores.mcnemar_paper
    original = gap_closed(0.6185, 0.5285, 0.8054)
    closed = (
        "The probe's F1 is not above the baseline's, so there is no gap to close"
        if scores.gap_closed is None
        else f"Gap closed (F1 from baseline to probe): **{scores.gap_closed:.2f}** with the {chosen.direction} "
        f"direction, {printed(scores.gap_closed_paper, '.2f')} with the paper's"
    )
    beside_papers = (
        ""
        if chosen.direction == NECESSITY
        else f"; against the paper's direction: {papers.only_b} only ASA, {papers.only_a} only the paper's, "
        f"p = {papers.p_value:.2g}"
    )
    change = {m: printed(difference(asa[m], base[m]), "+.3f") for m in ("f1", "fpr")}
    return (
        f"{closed}; the original's published run closed {original:.2f}. ASA against baseline, exact McNemar: "
        f"{paired.only_b} requests only ASA got right, {paired.only_a} only the baseline, p = "
        f"{paired.p_value:.2g}{beside_papers}. Change of F1 {change['f1']}, of FPR {change['fpr']} (original: "
        "+0.090 and -0.409; paper, Qwen2.5-1.5B: +0.322 and -0.094; LLaMA-8B: +0.226 and -0.014)."
    )


def _first_token_table(results: Results) -> str:
    rows = []
    for run, scores in results.scores.first_token.items():
        anywhere = results.scores.test[run]
        columns = [with_interval(scores, "f1"), with_interval(scores, "fpr"), anywhere["f1"], anywhere["fpr"]]
        rows.append([RUN_LABELS[run], *columns])
    table = markdown_table(["run", "F1, first token", "FPR, first token", "F1, anywhere", "FPR, anywhere"], rows)
    return with_reasons(table, {RUN_LABELS[run]: scores for run, scores in results.scores.first_token.items()})


def _domain_table(per_domain: dict) -> str:
    ours = {(domain, run): of[domain] for run, of in per_domain.items() for domain in of}
    rows = [
        [domain, OURS, run, *[with_interval(scores, m) for m in ("f1", "precision", "recall", "fpr")]]
        for (domain, run), scores in ours.items()
    ]
    rows += [[domain, ORIGINAL, "asa", *rates] for domain, *rates in PUBLISHED_DOMAINS]
    table = markdown_table(["domain", "origin", "run", "F1", "precision", "recall", "FPR"], rows)
    return with_reasons(table, {f"{domain} ({run})": scores for (domain, run), scores in ours.items()})


def _calls_section(calls: dict, choice: dict) -> list[str]:
    if not calls:  # of an earlier run
        return []
    return [
        "## From a call to the job done (rates over all requests that need a tool)",
        *calls_and_jobs({RUN_LABELS[run]: of for run, of in calls.items()}),
        f"{_how_written(choice)} Each step presupposes the one before. Whether the job is done is judged by rules "
        "(data/README.md); code is not run.",
    ]


def _how_written(choice: dict) -> str:
    if not choice:
        return "All calls were written freely."
    where = f"where it was at least {choice['sure']} sure" if choice["sure"] else "always"
    return (
        "The baseline wrote its calls freely. ASA's were written under the grammar of the tools, behind the decision "
        f"and in a prompt of their own; which tool, the router said ({where})."
    )


def _validity_table(validity: dict) -> str:
    rows = []
    for run, rates in validity.items():
        rows.append([RUN_LABELS[run], OURS, rates["format"]["total"], *map(rate_with_interval, rates.values())])
    rows += [[run, origin, None, *rates] for run, *rates, origin in PUBLISHED_VALIDITY]
    return markdown_table(["run", "origin", "calls", "format", "tool", "arguments"], rows)


def _ablation_table(ablations: dict) -> str:
    rows = [[name, OURS, with_interval(s, "f1"), with_interval(s, "fpr")] for name, s in ablations.items()]
    rows += [[name, ORIGINAL, f1, fpr] for name, f1, fpr in PUBLISHED_ABLATIONS]
    return with_reasons(markdown_table(["variant", "origin", "F1", "FPR"], rows), ablations)


def _auc_table(results: Results) -> str:
    plateau = (results.readings.layer_plateau, results.readings.auc_plateau, results.readings.shuffled_plateau)
    rows = []
    for model, layers, layer, auc, shuffled, origin in [
        (results.run.model, len(results.readings.layers), *plateau, OURS),
        *PUBLISHED_AUC,
    ]:
        four = [printed(value, ".4f") for value in (auc, shuffled)]  # the paper's differ in the 4th
        rows.append([model, layers, layer, *four, origin])
    return markdown_table(["model", "layers", "L*", "AUC", "shuffled AUC", "origin"], rows)


def _configuration_table(results: Results) -> str:
    valid, generated = results.tuning.valid, results.tuning.valid_generated
    rows: list[list] = [
        ["layer", results.chosen.layer],
        ["direction", results.chosen.direction],
        ["alpha", results.chosen.alpha],
        ["dose (alpha / mean state norm)", results.chosen.dose],
        ["tau", results.chosen.tau],
        ["beta", results.chosen.beta],
        ["settings scored on VALID", results.tuning.settings_scored],
        ["VALID F1 / FPR by replay", f"{printed(valid['f1'])} / {printed(valid['fpr'])}"],
        ["VALID F1 / FPR confirmed by generation", f"{printed(generated['f1'])} / {printed(generated['fpr'])}"],
        ["adapter size, KB", round(results.adapter_bytes / 1024, 1)],
    ]
    return markdown_table(["parameter", "value"], rows)


def _time_table(results: Results) -> str:
    stages: dict[str, float] = {}
    for name, seconds in results.stage_seconds.items():
        group = name.split("/")[0]
        stages[group] = stages.get(group, 0.0) + seconds
    rows = [[name, f"{seconds:.1f}"] for name, seconds in stages.items()]
    return markdown_table(["stage", "seconds"], [*rows, ["**all stages**", f"{results.seconds:.1f}"]])


def _cosine_table(results: Results) -> str:
    names, matrices = results.readings.domains, results.readings.cosines
    published = {frozenset(pair): rest for pair, *rest in PUBLISHED_COSINES}
    rows = []
    for first, one in enumerate(names):
        for second in range(first + 1, len(names)):
            known = published.get(frozenset((one, names[second])), (None, None))
            rows.append([f"{one}, {names[second]}", *[float(m[first][second]) for m in matrices.values()], *known])
    heads = ["pair", *[f"{direction}, {OURS}" for direction in matrices], f"Qwen2.5-1.5B, {PAPER}", ORIGINAL]
    return markdown_table(heads, rows)
