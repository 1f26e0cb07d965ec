"""The study's plots: the axes hold the numbers that were given."""

import numpy as np
from drawn import assert_is_figure, drawn_to_files_only, labels_of, line  # noqa: F401

from asa.study.figures import plot_dose_curves, plot_layer_curve, plot_learning_curve


def test_lines_have_holes_where_a_rate_is_missing(tmp_path):
    """And no line across where the unsteered model has no such rate."""
    points = [
        {"direction": "action", "layer": 4, "dose": dose, "f1": 0.5, "fpr": None, "kl": kl, "arguments": None}
        for dose, kl in ((0.1, None), (0.5, 1.5))
    ]
    axes = plot_dose_curves(points, {"f1": 0.57, "fpr": None}, tmp_path / "d.png").axes
    assert np.allclose(line(axes[3], "action").get_ydata(), [np.nan, 1.5], equal_nan=True)
    assert np.isnan(line(axes[2], "action").get_ydata()).all() and len(axes[1].get_lines()) == 1
    layers = [{"layer": 2, "necessity": None, "action": 0.7}, {"layer": 3, "necessity": 0.8, "action": 0.9}]
    (axes,) = plot_layer_curve(layers, {2: 0.95}, ("necessity", "action"), tmp_path / "l.png").axes
    assert np.allclose(line(axes, "achieved: F1, necessity").get_ydata(), [np.nan, 0.8], equal_nan=True)


def test_dose_curves_have_a_column_a_layer_and_a_line_a_direction(tmp_path):
    points = [
        {"direction": kind, "layer": layer, "dose": dose, "f1": dose + layer / 100, "fpr": dose / 2, "kl": 3 * dose,
         "arguments": 1 - dose}
        for kind in ("necessity", "action") for layer in (4, 9) for dose in (0.1, 0.5)
    ]  # fmt: skip
    figure = plot_dose_curves(points, {"f1": 0.57, "fpr": 0.49}, tmp_path / "d.png")
    assert_is_figure(tmp_path / "d.png")
    grid = np.array(figure.axes).reshape(4, 2)
    assert [axes.get_title() for axes in grid[0]] == ["layer 4", "layer 9"]
    assert labels_of(grid[0, 0]) == ["necessity", "action", "unsteered"]
    for row, heights in enumerate(([0.19, 0.59], [0.05, 0.25], [0.9, 0.5], [0.3, 1.5])):
        drawn = line(grid[row, 1], "action")
        np.testing.assert_allclose(drawn.get_xdata(), [0.1, 0.5])
        np.testing.assert_allclose(drawn.get_ydata(), heights)
    assert line(grid[1, 0], "unsteered").get_ydata()[0] == 0.49
    assert len(grid[2, 0].get_lines()) == 2  # of a call's arguments nothing unsteered is known


def test_the_layer_curve_sets_what_is_achieved_beside_what_is_read(tmp_path):
    layers = [{"layer": 2, "necessity": 0.6, "action": 0.7}, {"layer": 3, "necessity": 0.8, "action": 0.9}]
    figure = plot_layer_curve(layers, {2: 0.95, 3: 0.99}, ("necessity", "action"), tmp_path / "l.png")
    assert_is_figure(tmp_path / "l.png")
    (axes,) = figure.axes
    assert list(line(axes, "read: the probe's AUC").get_ydata()) == [0.95, 0.99]
    assert list(line(axes, "achieved: F1, action").get_ydata()) == [0.7, 0.9]
    assert list(line(axes, "achieved: F1, necessity").get_xdata()) == [2, 3]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_the_learning_curve_shows_every_draw(tmp_path):
    """Means as lines, draws as dots, a hole where a rate is missing, and the unsteered model across."""

    def at(size: int, asa: list[float | None]) -> dict:
        draws = [{"asa": {"f1": f1, "fpr": 0.1}, "probe": {"f1": 0.9, "fpr": 0.2}} for f1 in asa]
        means = {
            "asa": {"f1": {"mean": asa[0]}, "fpr": {"mean": 0.1}},
            "probe": {"f1": {"mean": 0.9}, "fpr": {"mean": 0.2}},
        }
        return {"size": size, "draws": draws, "summary": means}

    points = [at(4, [None, None]), at(8, [0.7, 0.8])]
    figure = plot_learning_curve(points, {"f1": 0.5, "fpr": 0.9}, tmp_path / "c.png")
    assert_is_figure(tmp_path / "c.png")
    left, right = figure.axes
    assert np.allclose(line(left, "ASA").get_ydata(), [np.nan, 0.7], equal_nan=True)
    assert line(left, "unsteered").get_ydata()[0] == 0.5 and line(right, "unsteered").get_ydata()[0] == 0.9
    assert any(dots.get_marker() == "." and list(dots.get_ydata()) == [0.7, 0.8] for dots in left.get_lines())
    assert [text.get_text() for text in left.get_xticklabels()] == ["4", "8"]
