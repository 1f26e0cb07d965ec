"""Figures of the study: what a growing push does, what each layer reads and achieves, how far the probe is to be taken.

Drawn as those of `evaluation.figures` are.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from asa.evaluation.figures import (
    DIRECTION_COLOURS,
    RUN_COLOURS,
    draw_level,
    heights,
    plot_reliability,
    save_figure,
)
from asa.method.directions import DIRECTIONS
from asa.support.files import Writer


def plot_dose_curves(points: list[dict], unsteered: dict[str, float], path: str | Path) -> Figure:
    """F1, FPR, call validity and damage against dose: one column per layer, one line per direction."""
    layers, directions = sorted({p["layer"] for p in points}), list(dict.fromkeys(p["direction"] for p in points))
    measures = {"f1": "trigger F1", "fpr": "false-positive rate", "arguments": "calls that fit", "kl": "KL (nats)"}
    figure, rows = plt.subplots(
        len(measures), len(layers), figsize=(3.6 * len(layers), 8.4), sharex=True, sharey="row", squeeze=False
    )
    for row, (measure, label) in enumerate(measures.items()):
        for column, layer in enumerate(layers):
            axes = rows[row, column]
            for direction in directions:
                line = [p for p in points if (p["layer"], p["direction"]) == (layer, direction)]
                colour = DIRECTION_COLOURS[direction]
                drawn = heights(p[measure] for p in line)
                axes.plot([p["dose"] for p in line], drawn, "o-", color=colour, label=direction)
            draw_level(axes, unsteered.get(measure))
            axes.grid(alpha=0.3)
            if measure != "kl":
                axes.set_ylim(-0.03, 1.03)
            if row == 0:
                axes.set_title(f"layer {layer}")
            if column == 0:
                axes.set_ylabel(label)
            if row == len(measures) - 1:
                axes.set_xlabel("dose (alpha / mean state norm)")
    rows[0, 0].legend(fontsize=8)
    figure.suptitle("What a growing push along the domains' own vectors does, on VALID")
    figure.tight_layout()
    return save_figure(figure, path)


def plot_layer_curve(
    layers: list[dict], auc: dict[int, float], directions: tuple[str, ...], path: str | Path
) -> Figure:
    """Layer by layer: what the probe reads (AUC) and what each direction achieves at its best dose (F1)."""
    figure, axes = plt.subplots(figsize=(9, 4))
    axes.plot(list(auc), list(auc.values()), "k.--", lw=1, label="read: the probe's AUC")
    for direction in directions:
        colour = DIRECTION_COLOURS[direction]
        drawn = heights(at[direction] for at in layers)
        axes.plot([at["layer"] for at in layers], drawn, "o-", color=colour, label=f"achieved: F1, {direction}")
    axes.set(
        xlabel="layer",
        ylabel="AUC, or F1 at the best dose (VALID)",
        title="What is read, and what the domains' own vectors achieve",
    )
    axes.xaxis.set_major_locator(plt.MaxNLocator(integer=True))  # there is no layer 2.5
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return save_figure(figure, path)


def plot_learning_curve(points: list[dict], unsteered: dict[str, float], path: str | Path) -> Figure:
    """F1 and false-positive rate against the number of labels: the mean as a line, every draw as a dot."""
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6))
    sizes = [at["size"] for at in points]
    for axes, (measure, label) in zip(both, {"f1": "trigger F1", "fpr": "false-positive rate"}.items(), strict=True):
        for run, name in (("asa", "ASA"), ("probe", "the probe's own decision")):
            colour = RUN_COLOURS[run]
            axes.plot(
                sizes, heights(at["summary"][run][measure]["mean"] for at in points), "-", color=colour, label=name
            )
            for at in points:
                drawn = heights(draw[run][measure] for draw in at["draws"])
                axes.plot([at["size"]] * len(drawn), drawn, ".", color=colour, alpha=0.5)
        draw_level(axes, unsteered.get(measure))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, map(str, sizes))
        axes.set(xlabel="labelled requests of each label and tool", ylabel=label, ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
    both[0].legend(fontsize=8)
    figure.suptitle("How many labels it takes, on TEST")
    figure.tight_layout()
    return save_figure(figure, path)


def plot_proof(proof: dict | None, unsteered: dict[str, float], folder: str, writer: Writer) -> None:
    """The study's figures; none without a study."""
    if proof is None:
        return
    writer.write(f"{folder}/dose_curves.png", plot_dose_curves, proof["doses"], unsteered)
    if proof["learning"]:
        baseline = proof["ladder"]["baseline"]["scores"]
        writer.write(f"{folder}/learning_curve.png", plot_learning_curve, proof["learning"], baseline)
    writer.write(f"{folder}/layer_curve.png", plot_layer_curve, proof["layers"], proof["auc"], DIRECTIONS)
    if proof["robustness"]:
        writer.write(f"{folder}/reliability.png", plot_reliability, proof["robustness"]["target_fpr"]["reliability"])
