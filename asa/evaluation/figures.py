"""Figures: the layer sweep, the tuning curves, the cosines, baseline against ASA, and what becomes of the calls.

Each function draws one figure from plain numbers, saves it and returns it. In a notebook the figure also appears
below its cell. A number that is None is not drawn: a dash stands in a bar's place, and a line has a hole.
"""

from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from asa.evaluation.calls import STEPS
from asa.evaluation.tables import printed
from asa.method.layers import LayerReading
from asa.method.tuning import Setting
from asa.support.files import write_atomic

BLOCK_COLOURS = {"conv": "#e0a030", "full_attention": "#3f72af", "sliding_attention": "#7aa6c2"}
RUN_COLOURS = {"baseline": "#9a9a9a", "asa_paper": "#e0a030", "asa": "#3f72af", "probe": "#5a9a5a"}
RIVAL_COLOUR = "#c8b89a"
DIRECTION_COLOURS = {"necessity": RUN_COLOURS["asa_paper"], "action": RUN_COLOURS["asa"]}
STEP_TITLES = {
    "called": "calls a tool",
    "parses": "the call parses",
    "known": "a known tool",
    "fits": "fits the schema",
    "right_tool": "the right tool",
    "job": "does the job",
}
RUN_NAMES = {
    "baseline": "baseline",
    "asa_paper": "ASA, paper's direction",
    "asa": "ASA",
    "probe": "probe alone (not steering)",
}


def save_figure(figure: Figure, path: str | Path, mark: str = "") -> Figure:
    """Save as PNG, whole or not at all, and return the figure; `mark` stands above it, small."""
    if mark:
        figure.text(0, 1.01, mark, transform=figure.transFigure, fontsize=8, color="#b03060")
    write_atomic(path, lambda scratch: figure.savefig(scratch, format="png", dpi=130, bbox_inches="tight"))
    return figure


def heights(values: Iterable[float | None]) -> np.ndarray:
    """Numbers to draw, NaN for None; matplotlib leaves holes there."""
    return np.array([np.nan if value is None else value for value in values], float)


def draw_level(axes: Axes, height: float | None) -> None:
    """A line across at the unsteered model's rate, if it has one."""
    if height is not None:
        axes.axhline(height, color=RUN_COLOURS["baseline"], ls="--", lw=1, label="unsteered")


def plot_probe_sweep(
    readings: list[LayerReading],
    length_auc: float,
    kinds: list[str],
    chosen: dict[str, int],
    mark: str,
    path: str | Path,
) -> Figure:
    """AUC of every layer's probe, with controls; `kinds` are the blocks' types, `chosen` maps two rules to layers."""
    figure, axes = plt.subplots(figsize=(9, 4))
    for kind in dict.fromkeys(kinds):
        here = [r for r in readings if kinds[r.layer] == kind and not r.constant]
        label = kind.replace("_", " ") + " block"
        axes.bar([r.layer for r in here], [r.auc for r in here], color=BLOCK_COLOURS.get(kind, "#777777"), label=label)
    for reading in readings:
        if reading.constant:
            axes.text(reading.layer, 0.5, "constant", rotation=90, ha="center", va="bottom", fontsize=8)
    axes.plot([r.layer for r in readings], [r.shuffled for r in readings], "k.--", lw=1, label="shuffled labels")
    axes.axhline(length_auc, color="#b03060", lw=1, ls=":", label="prompt length alone")
    axes.axhline(0.5, color="#777777", lw=0.8)  # chance
    for height, marker, (rule, layer) in zip((0.012, 0.03), "v*", chosen.items(), strict=False):
        place = (layer, readings[layer].auc + height)
        axes.plot(*place, marker, color="#b03060", ms=7, label=f"{rule} (layer {layer})")
    lowest = min([0.5, length_auc, *[r.shuffled for r in readings if not r.constant]])
    axes.set(xlabel="layer", ylabel="AUC on VALID", ylim=(lowest - 0.05, 1.05), xticks=[r.layer for r in readings])
    axes.set_xlim(-0.8, len(readings) - 0.2)  # the first layers may have no bar
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes.set_title("Where the need for a tool can be read (last prompt token)")
    return save_figure(figure, path, mark)


def plot_settings(
    settings: list[Setting],
    chosen: dict[str, Setting],
    baseline: dict[str, float],
    mark: str,
    path: str | Path,
) -> Figure:
    """Trigger F1 and FPR on VALID against dose, tau and beta, each direction around its own best setting."""
    figure, rows = plt.subplots(2, 3, figsize=(11, 5.6), sharey="row")
    for direction, best in chosen.items():
        for column, swept in enumerate(("dose", "tau", "beta")):
            fixed = [name for name in ("layer", "dose", "tau", "beta") if name != swept]
            line = [
                s
                for s in settings
                if s.direction == direction and all(getattr(s, f) == getattr(best, f) for f in fixed)
            ]
            line.sort(key=lambda s: getattr(s, swept))
            for row, measure in enumerate(("f1", "fpr")):
                axes = rows[row, column]
                label = f"{direction}, layer {best.layer}"
                colour = DIRECTION_COLOURS[direction]
                axes.plot(
                    [getattr(s, swept) for s in line],
                    heights([getattr(s, measure) for s in line]),
                    "o-",
                    color=colour,
                    label=label,
                )
    for row, measure in enumerate(("f1", "fpr")):
        for column, swept in enumerate(
            ("dose (alpha / mean state norm)", "tau (gate confidence)", "beta (global share)")
        ):
            axes = rows[row, column]
            draw_level(axes, baseline[measure])
            axes.grid(alpha=0.3)
            if row:
                axes.set_xlabel(swept)
            if not column:
                axes.set_ylabel({"f1": "trigger F1", "fpr": "false-positive rate"}[measure])
    rows[0, 0].legend(fontsize=8)
    figure.suptitle("What steering does on VALID (next token after the push)")
    figure.tight_layout()
    return save_figure(figure, path, mark)


def plot_baseline_vs_asa(test: dict[str, dict], title: str, path: str | Path) -> Figure:
    """Test metrics with 95 % intervals where there are any, a bar a run; a dash in place of a bar without a value."""
    figure, axes = plt.subplots(figsize=(9, 4.2))
    measures = ("precision", "recall", "f1", "fpr", "accuracy")
    runs = [run for run in ("baseline", "asa_paper", "asa", "probe") if run in test]
    width = 0.8 / len(runs)
    for number, run in enumerate(runs):
        values = heights(test[run][measure] for measure in measures)
        bounds = np.array([test[run]["intervals"][measure] or [np.nan, np.nan] for measure in measures]).T
        errors = np.maximum(np.stack([values - bounds[0], bounds[1] - values]), 0)
        places = np.arange(len(measures)) + (number - (len(runs) - 1) / 2) * width
        there = np.isfinite(values)
        hatch = "//" if run == "probe" else None
        axes.bar(places[there], values[there], width, yerr=errors[:, there], color=RUN_COLOURS[run],
                 label=RUN_NAMES[run], hatch=hatch, capsize=2, edgecolor="white", error_kw={"lw": 0.8})  # fmt: skip
        tops = np.nan_to_num(values) + np.nan_to_num(errors[1])
        for place, measure, top in zip(places, measures, tops, strict=True):
            axes.text(place, top + 0.015, printed(test[run][measure], ".2f"), ha="center", fontsize=7)
    axes.set_xticks(range(len(measures)), ["precision", "recall", "F1", "FPR (lower is better)", "accuracy"])
    axes.set(xlim=(-0.64, len(measures) - 0.36), ylim=(0, 1.12), title=title)  # room for bars that are not there too
    axes.legend(fontsize=8, ncols=len(runs), loc="upper center", bbox_to_anchor=(0.5, -0.08))
    return save_figure(figure, path)


def plot_cosines(matrices: dict[str, np.ndarray], names: list[str], mark: str, path: str | Path) -> Figure:
    """Cosines between the domains' directions, one heat map a direction."""
    figure, axes = plt.subplots(
        1, len(matrices), figsize=(4.4 * len(matrices), 3.8), squeeze=False, layout="constrained"
    )
    for panel, (direction, matrix) in zip(axes[0], matrices.items(), strict=True):
        image = panel.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right")
        panel.set_yticks(range(len(names)), names)
        panel.set_title(f"{direction} direction")
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if abs(matrix[row, column]) > 0.6 else "black"
            panel.text(column, row, f"{matrix[row, column]:.2f}", ha="center", va="center", fontsize=8, color=colour)
    figure.colorbar(image, ax=axes[0], shrink=0.8, label="cosine")
    return save_figure(figure, path, mark)


def plot_calls(calls: dict[str, dict], mark: str, path: str | Path) -> Figure:
    """How far the requests that need a tool get, step by step, one row of bars per run; ASA's runs have its colour.

    Args:
        calls: Run -> `calls.call_steps`.
        mark: Stands above the figure, small.
        path: Where it is saved.
    """
    figure, columns = plt.subplots(1, len(STEPS), figsize=(11, 0.9 + 0.42 * len(calls)), sharey=True)
    names = [RUN_NAMES.get(run, run) for run in calls]
    for axes, step in zip(columns, STEPS, strict=True):
        rates = [of[step] for of in calls.values()]
        widths = heights(rate["rate"] for rate in rates)
        axes.barh(names, np.nan_to_num(widths), color=[_colour_of(run) for run in calls])
        for place, (width, rate) in enumerate(zip(np.nan_to_num(widths), rates, strict=True)):
            axes.text(width + 0.03, place, printed(rate["rate"], ".2f"), va="center", fontsize=9)
        axes.set_title(f"{STEP_TITLES[step]}\n(of {rates[0]['total']})", fontsize=9)
        axes.set(xlim=(0, 1.35), xticks=[])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    columns[0].invert_yaxis()
    figure.tight_layout()
    return save_figure(figure, path, mark)


def _colour_of(run: str) -> str:
    """ASA's runs are named so, or say what is added to it; the baseline's begin with its name."""
    if run.startswith(("ASA", "+")):
        return RUN_COLOURS["asa"]
    return RUN_COLOURS.get(run.split(" ")[0], RIVAL_COLOUR)


def plot_reliability(bins: dict[str, list[dict]], path: str | Path) -> Figure:
    """The share of requests that need a tool against the probe's p; one line per name of `bins`, two at most.

    The more requests, the larger the dot.

    Args:
        bins: Name -> `targets.reliability`.
        path: Where it is saved.
    """
    figure, axes = plt.subplots(figsize=(4.6, 4.4))
    axes.plot([0, 1], [0, 1], ":", color="#777777", lw=1)
    looks = (RUN_COLOURS["asa_paper"], RUN_COLOURS["asa"])
    for (name, row), colour in zip(bins.items(), looks[-len(bins) :], strict=True):
        there = [at for at in row if at["count"]]
        places = [at["mean_p"] for at in there], [at["needs_tool"] for at in there]
        all_of_them = sum(at["count"] for at in there)
        axes.plot(*places, "-", color=colour, lw=1, label=name)
        areas = [12 + 400 * at["count"] / all_of_them for at in there]
        axes.scatter(*places, s=areas, color=colour, alpha=0.7)
    axes.set(xlabel="probe's p(tool)", ylabel="share that needs a tool", ylim=(-0.1, 1.1))
    axes.set_title("How far p can be taken at its word\n(larger dot: more requests)", fontsize=10)
    axes.legend(fontsize=8)
    return save_figure(figure, path)
