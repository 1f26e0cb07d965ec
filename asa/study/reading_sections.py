"""Reading sections: the report on layers, labels, other gates and geometry.

Texts and tables only; nothing is computed here.
"""

import numpy as np

from asa.data.scores import worth
from asa.evaluation.tables import markdown_table, mean_and_deviation, printed, with_interval
from asa.method.directions import ACTION, DIRECTIONS, NECESSITY
from asa.method.probes import PROBE_C, PROBE_OWN


def layers_section(layers: list[dict], auc: dict) -> str:
    """What is read and what is achieved, in words."""
    found = {kind: max(layers, key=lambda at: worth(at[kind])) for kind in DIRECTIONS}
    reads = max(auc, key=lambda layer: auc[layer])
    return (
        f"The probe reads best at layer {reads} (AUC {float(auc[reads]):.3f}). At its best dose the action direction "
        f"achieves most at layer {found[ACTION]['layer']} (F1 {printed(found[ACTION][ACTION])}), the paper's at "
        f"layer {found[NECESSITY]['layer']} (F1 {printed(found[NECESSITY][NECESSITY])}). The dose is picked on the "
        "requests that are shown, so these heights are somewhat optimistic."
    )


def learning_section(points: list[dict] | None) -> list[str]:
    """How many labels it takes; nothing where no size could be drawn."""
    if not points:
        return []
    rows = [
        [at["size"], *[mean_and_deviation(at["summary"][run][m]) for run in ("asa", "probe") for m in ("f1", "fpr")]]
        for at in points
    ]
    return [
        "## How many labels it takes (TEST, next token after the push)",
        "Readers and directions fitted on so many requests of each label and tool; layer, direction, dose, beta and "
        f"tau are the whole run's. Mean ± standard deviation over {len(points[0]['draws'])} draws; a smaller draw is "
        "part of the larger ones.",
        "![Learning curve](learning_curve.png)",
        markdown_table(["requests of each label and tool", "F1", "FPR", "the probe's F1", "FPR"], rows),
    ]


def third_section(settings: list[dict] | None, ladder: dict) -> list[str]:
    """The third version's rungs with their settings; nothing where a run has none."""
    if not settings:
        return []
    rows = []
    for of in settings:
        name, last = f"{of['direction']}: {of['idea']}", of["layer"] + of["blocks"] - 1
        scores, layers = ladder[name]["scores"], f"{of['layer']}-{last}" if of["blocks"] > 1 else of["layer"]
        rows.append([
            name, layers, of["dose"], of["beta"], of["tau"], of["limit"] if of["limit"] < 1 else "-",
            of["f1"], of["fpr"], *[with_interval(scores, rate) for rate in ("f1", "fpr")],
        ])  # fmt: skip
    heads = ["rung", "layers", "dose", "beta", "tau", "ready", "VALID F1", "FPR", "TEST F1", "FPR"]
    return [
        "### The paper's third version",
        "What arXiv 2602.04935 v3 changes, each at its own best setting on VALID. *Shared and residual*: beta is the "
        "share of a domain's residual beside the shared vector. *Readiness*: a second probe reads whether the model is "
        "about to call, and a request is pushed toward a call only where that is at most `ready`; both ways, it is "
        "pushed away only where it is at least 1 - `ready`. *Cascade*: all of these layers are pushed, at every step, "
        "by dose times each state's own length; their VALID scores are those of calls that begin.",
        markdown_table(heads, rows),
    ]


def gates_section(gates: list[dict]) -> str:
    """The gates as a table, and what they are."""
    rows = [
        [
            row["gate"], *row["valid"].values(), *[mean_and_deviation(row["folds"][m]) for m in ("auc", "f1", "fpr")],
            mean_and_deviation(row["ahead"], "+.3f"),
        ]
        for row in gates
    ]  # fmt: skip
    heads = ["gate", "VALID AUC", "F1", "FPR", "folds' AUC", "folds' F1", "folds' FPR", "F1 less that of ours"]
    ours, best = gates[0], max(gates, key=lambda row: worth(row["valid"]["f1"]))
    return (
        "Fitted on CAL and TRAIN and judged on VALID; and on five folds of all three (fewer where a domain has fewer "
        "rows of a label), mean ± standard deviation. Our regularisation was picked by its AUC on VALID out of "
        f"{len(PROBE_C) * len(PROBE_OWN)}, while the rivals' hyperparameters are fixed or follow ours; the second "
        "layer of the pair was picked by its AUC on VALID too. The adapter's gate is the last: ours, fitted also on "
        "the labelled requests that no split took. "
        f'By VALID\'s F1 the best is "{best["gate"]}" ({printed(best["valid"]["f1"])}; ours '
        f"{printed(ours['valid']['f1'])}).\n\n" + markdown_table(heads, rows)
    )


def geometry_section(geometry: dict) -> str:
    """The cosines as a table."""
    columns = {pair: of["global"] for pair, of in geometry.items()}
    rows = [[layer, *cosines] for layer, cosines in enumerate(np.stack([*columns.values()], axis=1).tolist())]
    return markdown_table(["layer", *[pair.replace("_", ", ") for pair in columns]], rows)
