"""The report's sections on robustness: other splits, domains left out, wrong labels, a wanted false-positive rate.

Sentences are made from the numbers, so that they say what came out, also where it goes against the claim.
"""

from asa.evaluation.tables import (
    markdown_table,
    mean_and_deviation,
    printed,
    with_reasons,
)
from asa.method.directions import DIRECTIONS


def robustness_sections(robust: dict, kind: str) -> list[str]:
    """The sections of `run_robustness`' results; `kind` is the chosen direction."""
    layers = ", ".join(f"{name} {robust['committed'][name]['layer']}" for name in DIRECTIONS)
    return [
        "## Robustness (TEST, next token after the push)",
        "The main TEST was looked at many times for these tables; nothing was chosen on it. Each direction is read and "
        f"pushed at the layer of its own best setting on the main VALID ({layers}); the probe that stands alone is "
        f"that of the {kind} direction's layer. The probes' regularisation is the main run's too; they are fitted on "
        "CAL and TRAIN alone, which is why the main run's numbers differ a little here.",
        "### Other splits",
        _splits(robust["splits"]),
        "### A wanted false-positive rate",
        _target(robust["target_fpr"]),
        "![Reliability](reliability.png)",
        "### A domain left out (fitted and tuned on the others, tested on it)",
        _left_out(robust["left_out"], kind),
        "### Wrong labels in CAL, TRAIN and VALID",
        _wrong_labels(robust, kind),
        "### Keyword labels against annotations, on the same texts",
        _keywords(robust["keywords"], kind),
        "### Scoring the probe in place of the model (the original's protocol)",
        _probe_protocol(robust["probe_protocol"]),
    ]


def _splits(splits: dict | None) -> str:
    if splits is None:
        return "No other split could be made from these requests."
    summary = splits["summary"]
    rows = [
        [name, *[mean_and_deviation(of[m]) if m in of else None for m in ("gap_closed", "f1", "fpr")]]
        for name, of in summary.items()
    ]
    table = markdown_table(["run", "gap closed", "F1", "FPR"], rows)
    return (
        f"{len(splits['seeds'])} splits, mean ± standard deviation. Dose, beta and tau are chosen on each split's own "
        "VALID. The layers and the probes' regularisation are not chosen anew: they were chosen on the main "
        f"VALID, whose rows are dealt anew, so that on average {splits['seen']:.3f} of a new TEST was in it.\n\n{table}"
    )


def _target(target: dict) -> str:
    rows = [["probe, VALID", target["valid"]["probe"]["f1"], target["valid"]["probe"]["fpr"]]]
    rows += [[f"{run}, TEST", rates["f1"], rates["fpr"]] for run, rates in target["test"].items()]
    thresholds = ", ".join(f"{kind} {threshold:.3f}" for kind, threshold in target["thresholds"].items())
    table = with_reasons(markdown_table(["run", "F1", "FPR"], rows), target["test"])
    return (
        "A direction obeys the probe of its layer, at a threshold that keeps this probe's false-positive rate on VALID "
        f"at or below {target['target_fpr']} ({thresholds}): above it a request is pushed toward a call, below it "
        f"away.\n\n{table}"
    )


def _left_out(left_out: dict, kind: str) -> str:
    rows = []
    for name, of in left_out.items():
        for fitted, runs in of.items():
            cells = [runs[run][m] for run in ("baseline", "probe", kind) for m in ("f1", "fpr")]
            rows.append([name, {"left_out": "the others"}.get(fitted, "all"), *cells])
    heads = ["domain", "fitted on", "baseline F1", "FPR", "probe F1", "FPR", f"{kind} F1", "FPR"]
    return markdown_table(heads, rows)


def _wrong_labels(robust: dict, kind: str) -> str:
    clean = robust["committed"]
    rows = [["0 %", clean["probe"]["f1"], clean[kind]["f1"], clean[kind]["fpr"], clean[kind]["gap_closed"]]]
    for of in robust["wrong_labels"]:
        summary = of["summary"]
        cells = [summary["probe"]["f1"], *[summary[kind][m] for m in ("f1", "fpr", "gap_closed")]]
        rows.append([f"{of['share']:.0%}".replace("%", " %"), *map(mean_and_deviation, cells)])
    heads = ["flipped labels", "probe F1", f"{kind} F1", f"{kind} FPR", "gap closed"]
    return markdown_table(heads, rows)


def _keywords(keywords: dict, kind: str) -> str:
    if "no_keywords" in keywords:
        return f"No keywords are known for {', '.join(keywords['no_keywords'])}."
    if "one_label" in keywords:
        return f"The keywords give all CAL requests of {', '.join(keywords['one_label'])} one label: nothing to fit on."
    rows: list[list[str]] = []
    scored: dict[str, dict] = {}
    for source, of in keywords["fitted_on"].items():
        for against, runs in of.items():
            truth = against.removeprefix("against_")
            cells = [runs[run][m] for run in ("baseline", "probe", kind) for m in ("f1", "fpr")]
            rows.append([source, truth, *cells])
            scored |= {f"{run}, fitted on {source}, against {truth}": runs[run] for run in ("baseline", "probe", kind)}
    heads = ["fitted on", "scored against", "baseline F1", "FPR", "probe F1", "FPR", f"{kind} F1", "FPR"]
    return (
        "Keyword rules like the original project's agree with the given labels on "
        f"{keywords['agreement']['all']:.3f} of the requests (Cohen's kappa {keywords['kappa']:.3f}).\n\n"
        + with_reasons(markdown_table(heads, rows), scored)
    )


def _probe_protocol(protocol: dict) -> str:
    claimed, ours = protocol["claimed"]["test"], protocol["ours"]
    real = [
        f"{place} F1 {printed(of['f1'])}, FPR {printed(of['fpr'])} (dose {of['dose']}, beta {of['beta']})"
        for place, of in protocol["real"].items()
    ]
    return (
        f"Scored by the probe's decision, {protocol['tied']} settings of dose and beta tie (tau {protocol['tau']}); "
        f"the order of a grid decides which is taken. On TEST the probe claims F1 {printed(claimed['f1'])} and FPR "
        f"{printed(claimed['fpr'])} for all of them. What the model does at the tied settings: {'; '.join(real)}. The "
        f"same direction at the setting chosen by steering, with its own beta and tau (dose {ours['dose']}, beta "
        f"{ours['beta']}, tau {ours['tau']}): F1 {printed(ours['test']['f1'])}, FPR {printed(ours['test']['fpr'])}."
    )


def shown_section(prompts: list[dict] | None, kind: str) -> list[str]:
    """What examples in the prompt achieve without and with steering; nothing where that was not tried."""
    if not prompts:
        return []
    rows = [
        [of["examples"], *[of[run][m] for run in ("baseline", kind, "probe") for m in ("f1", "fpr")]] for of in prompts
    ]
    return [
        "## Examples in the prompt, without and with steering (TEST, next token after the push)",
        "Readers, directions, dose, beta and tau are found anew under every prompt, on CAL, TRAIN and VALID; layers "
        f"and regularisation are the main run's. Steered along the {kind} direction.",
        markdown_table(["examples", "baseline F1", "FPR", "steered F1", "FPR", "the probe's F1", "FPR"], rows),
    ]
