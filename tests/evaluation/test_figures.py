"""Plots: the files are there, and the axes hold the numbers that were given."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from drawn import assert_is_figure, drawn_to_files_only, labels_of, line  # noqa: F401
from matplotlib import pyplot as plt

from asa.evaluation.calls import STEPS
from asa.evaluation.figures import (
    plot_baseline_vs_asa,
    plot_calls,
    plot_cosines,
    plot_probe_sweep,
    plot_reliability,
    plot_settings,
    save_figure,
)
from asa.evaluation.metrics import rate_of, trigger_metrics
from asa.method.layers import LayerReading
from asa.method.tuning import Setting

READINGS = [
    LayerReading(0, float("nan"), float("nan"), True),
    LayerReading(1, 0.7, 0.52, False),
    LayerReading(2, 0.9, 0.48, False),
    LayerReading(3, 0.95, 0.5, False),
]
KINDS = ["conv", "conv", "full_attention", "conv"]


def test_the_probe_sweep_shows_every_layer_and_both_controls(tmp_path):
    path = tmp_path / "probe_sweep.png"
    figure = plot_probe_sweep(READINGS, 0.61, KINDS, {"L*": 3, "steered": 2}, "", path)
    assert_is_figure(path)
    (axes,) = figure.axes
    heights = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in axes.patches}
    assert heights == {1: 0.7, 2: 0.9, 3: 0.95}
    colours = {round(bar.get_x() + bar.get_width() / 2): bar.get_facecolor() for bar in axes.patches}
    assert colours[1] == colours[3] != colours[2]
    shuffled = line(axes, "shuffled labels")
    assert np.allclose(shuffled.get_ydata(), [np.nan, 0.52, 0.48, 0.5], equal_nan=True)
    assert set(line(axes, "prompt length alone").get_ydata()) == {0.61}
    assert [(text.get_text(), text.get_position()[0]) for text in axes.texts] == [("constant", 0)]
    marks = {rule: line(axes, rule) for rule in ("L* (layer 3)", "steered (layer 2)")}
    assert [mark.get_xdata()[0] for mark in marks.values()] == [3, 2]
    assert [mark.get_ydata()[0] for mark in marks.values()] == pytest.approx([0.95, 0.9], abs=0.05)
    named = {"conv block", "full attention block", "shuffled labels", "prompt length alone", *marks}
    assert set(labels_of(axes)) == named


def test_the_probe_sweep_takes_a_kind_it_has_no_colour_for(tmp_path):
    figure = plot_probe_sweep(READINGS, 0.5, ["mamba"] * 4, {"L*": 3, "steered": 3}, "", tmp_path / "f.png")
    assert "mamba block" in labels_of(figure.axes[0])


def test_a_control_below_a_half_stays_in_the_picture(tmp_path):
    figure = plot_probe_sweep(READINGS, 0.31, KINDS, {"L*": 3, "steered": 3}, "", tmp_path / "f.png")
    low, high = figure.axes[0].get_ylim()
    assert low < 0.31 and high > 0.95


BEST = {"action": Setting("action", 2, 0.2, 0.5, 0.7), "necessity": Setting("necessity", 3, 0.1, 0.0, 0.5)}


def swept() -> list[Setting]:
    """Every setting of two directions and two layers; F1 and FPR tell the setting apart."""
    settings = []
    for direction in BEST:
        for layer in (2, 3):
            for dose in (0.2, 0.1, 0.5):
                for beta in (0.0, 0.5):
                    for tau in (0.5, 0.7):
                        f1 = dose + beta / 10 + tau / 100 + layer / 1000 + (direction == "action") / 10000
                        settings.append(Setting(direction, layer, dose, beta, tau, f1, f1 / 2))
    return settings


def test_the_tuning_curves_vary_one_thing_around_each_best_setting(tmp_path):
    path = tmp_path / "hp_sweep.png"
    figure = plot_settings(swept(), BEST, {"f1": 0.33, "fpr": 0.22}, "", path)
    assert_is_figure(path)
    rows = np.array(figure.axes).reshape(2, 3)
    f1 = {(s.direction, s.layer, s.dose, s.beta, s.tau): s.f1 for s in swept()}
    for direction, best in BEST.items():
        for column, (name, values) in enumerate((("dose", [0.1, 0.2, 0.5]), ("tau", [0.5, 0.7]), ("beta", [0.0, 0.5]))):
            around = [replace(best, **{name: value}) for value in values]
            expected = [f1[s.direction, s.layer, s.dose, s.beta, s.tau] for s in around]
            for row, share in enumerate((1, 0.5)):
                drawn = line(rows[row, column], f"{direction}, layer {best.layer}")
                assert drawn.get_xdata().tolist() == values
                assert np.allclose(drawn.get_ydata(), np.array(expected) * share)
    for row, value in enumerate((0.33, 0.22)):
        for axes in rows[row]:
            assert set(line(axes, "unsteered").get_ydata()) == {value}
    assert [axes.get_xlabel().split()[0] for axes in rows[1]] == ["dose", "tau", "beta"]


def four_runs() -> dict[str, dict]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    runs = {}
    for run, skill in (("baseline", 0.5), ("probe", 0.95), ("asa", 0.9), ("asa_paper", 0.7)):
        right = rng.random(100) < skill
        runs[run] = trigger_metrics(np.where(right, labels == 1, labels == 0), labels, 0)
    return runs


def test_baseline_against_asa_shows_rates_with_their_intervals(tmp_path):
    path = tmp_path / "baseline_vs_asa.png"
    test = four_runs()
    figure = plot_baseline_vs_asa(test, "A title", path)
    assert_is_figure(path)
    (axes,) = figure.axes
    assert axes.get_title() == "A title"
    assert labels_of(axes) == ["baseline", "ASA, paper's direction", "ASA", "probe alone (not steering)"]
    measures = ("precision", "recall", "f1", "fpr", "accuracy")
    bars = [container for container in axes.containers if isinstance(container, mpl.container.BarContainer)]
    for run, drawn in zip(("baseline", "asa_paper", "asa", "probe"), bars, strict=True):
        assert [bar.get_height() for bar in drawn] == [test[run][measure] for measure in measures]
        spans = [segment[:, 1] for segment in drawn.errorbar.lines[2][0].get_segments()]
        assert np.allclose(spans, [test[run]["intervals"][measure] for measure in measures])
    assert len({round(bar.get_x(), 3) for drawn in bars for bar in drawn}) == 20  # none hides another


def test_baseline_against_asa_takes_fewer_runs_and_empty_counts(tmp_path):
    empty = trigger_metrics(np.zeros(4, bool), [0, 0, 0, 0], 0)
    figure = plot_baseline_vs_asa({"baseline": empty, "asa": empty}, "", tmp_path / "f.png")
    assert labels_of(figure.axes[0]) == ["baseline", "ASA"]
    bars = [container for container in figure.axes[0].containers if isinstance(container, mpl.container.BarContainer)]
    for drawn in bars:  # FPR 0 and accuracy 1; the others have no denominator
        assert [bar.get_height() for bar in drawn] == [0.0, 1.0]
    labels = [(text.get_text(), text.get_position()[1]) for text in figure.axes[0].texts[:5]]
    assert [text for text, _ in labels] == ["-", "-", "-", "0.00", "1.00"]
    assert [height for _, height in labels[:3]] == [pytest.approx(0.015)] * 3
    left, right = figure.axes[0].get_xlim()
    assert all(left < text.get_position()[0] < right for text in figure.axes[0].texts)


def test_baseline_against_asa_without_any_request_shows_dashes(tmp_path):
    nothing = trigger_metrics([], [], 0)
    figure = plot_baseline_vs_asa({"baseline": nothing, "asa": nothing}, "", tmp_path / "f.png")
    assert [text.get_text() for text in figure.axes[0].texts] == ["-"] * 10 and not figure.axes[0].patches
    assert labels_of(figure.axes[0]) == ["baseline", "ASA"]


def test_an_f1_of_0_or_1_has_a_bar_without_an_interval(tmp_path):
    wrong = trigger_metrics([False, False, True], [1, 1, 0], 0)
    figure = plot_baseline_vs_asa({"baseline": wrong}, "", tmp_path / "f.png")
    (drawn,) = (c for c in figure.axes[0].containers if isinstance(c, mpl.container.BarContainer))
    assert [len(segment) for segment in drawn.errorbar.lines[2][0].get_segments()] == [2, 2, 0, 2, 2]
    assert [text.get_position()[1] for text in figure.axes[0].texts][2] == pytest.approx(0.015)


def test_lines_have_holes_where_a_rate_is_missing(tmp_path):
    """And no line across where the unsteered model has no such rate."""
    settings = [replace(setting, fpr=None) for setting in swept()]
    rows = np.array(plot_settings(settings, BEST, {"f1": 0.33, "fpr": None}, "", tmp_path / "s.png").axes).reshape(2, 3)
    assert np.isnan(line(rows[1, 0], "action, layer 2").get_ydata()).all()
    assert len(rows[1, 0].get_lines()) == 2 and len(rows[0, 0].get_lines()) == 3


def test_cosines_are_shown_as_numbers_and_colours(tmp_path):
    path = tmp_path / "cosines.png"
    matrices = {"necessity": np.array([[1, 0.25], [0.25, 1]]), "action": np.array([[1, -0.5], [-0.5, 1]])}
    figure = plot_cosines(matrices, ["math", "code"], "rough numbers", path)
    assert_is_figure(path)
    assert [text.get_text() for text in figure.texts] == ["rough numbers"]
    for panel, (direction, matrix) in zip(figure.axes[:2], matrices.items(), strict=True):
        (image,) = panel.get_images()
        assert np.array_equal(image.get_array(), matrix) and image.get_clim() == (-1, 1)
        assert direction in panel.get_title()
        cells = {text.get_position(): text.get_text() for text in panel.texts}
        assert cells[0, 0] == "1.00" and cells[1, 0] == cells[0, 1] == f"{matrix[0, 1]:.2f}"
        assert [tick.get_text() for tick in panel.get_yticklabels()] == ["math", "code"]


def test_calls_have_a_panel_a_step_and_a_bar_a_run(tmp_path):
    """A rate that nothing was counted for is a dash and has no bar."""
    steps = {step: rate_of(3 - place, 4) for place, step in enumerate(STEPS[:4])}
    steps |= {"right_tool": rate_of(0, 4), "job": rate_of(0, 0)}
    calls = {"baseline": steps, "asa": dict.fromkeys(STEPS, rate_of(4, 4))}
    figure = plot_calls(calls, "", tmp_path / "c.png")
    assert_is_figure(tmp_path / "c.png")
    drawn = [[bar.get_width() for bar in axes.patches] for axes in figure.axes]
    assert drawn == [[0.75, 1], [0.5, 1], [0.25, 1], [0, 1], [0, 1], [0, 1]]
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["0.75", "0.50", "0.25", "0.00", "0.00", "-"]
    assert figure.axes[5].get_title().startswith("does the job")


def test_the_steps_towards_what_asa_does_have_its_colour(tmp_path):
    runs = ["baseline", "baseline + grammar", "ASA, free calls", "+ schemas", "LoRA, rank 16"]
    figure = plot_calls({run: dict.fromkeys(STEPS, rate_of(1, 2)) for run in runs}, "", tmp_path / "c.png")
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches]
    assert colours[0] == colours[1] != colours[2] == colours[3] != colours[4]


def test_one_direction_is_one_panel(tmp_path):
    figure = plot_cosines({"action": np.eye(3)}, ["a", "b", "c"], "", tmp_path / "f.png")
    assert not figure.texts
    assert len(figure.axes) == 2  # the panel and its colour bar


def test_a_figure_that_cannot_be_saved_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "f.png"
    path.write_bytes(b"old")
    figure, _ = plt.subplots()

    def full(scratch, **_):
        scratch.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_reliability_leaves_empty_bins_out(tmp_path):
    bins = [
        {"count": 5, "mean_p": 0.1, "needs_tool": 0.2}, {"count": 0, "mean_p": None, "needs_tool": None},
        {"count": 7, "mean_p": 0.9, "needs_tool": 1.0},
    ]  # fmt: skip
    figure = plot_reliability({"VALID": bins, "TEST": bins[:1]}, tmp_path / "r.png")
    assert_is_figure(tmp_path / "r.png")
    (axes,) = figure.axes
    assert list(line(axes, "VALID").get_xdata()) == [0.1, 0.9] and list(line(axes, "VALID").get_ydata()) == [0.2, 1.0]
    many, few = (dots.get_sizes() for dots in axes.collections)
    assert many[0] < many[1] and len(few) == 1  # more requests, a larger dot
