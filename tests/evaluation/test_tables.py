"""Tables: how numbers look, cell by cell."""

import numpy as np
import pytest

from asa.evaluation.metrics import trigger_metrics
from asa.evaluation.tables import (
    calls_in_words,
    markdown_table,
    mean_and_deviation,
    printed,
    rate_lines,
    rate_with_interval,
    with_interval,
    with_reasons,
)
from asa.evaluation.validity import call_validity
from asa.tools.definitions import Tool


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.5, "0.500"), (0.12349, "0.123"), (-1.23456, "-1.235"), (0.0, "0.000"), (np.float64(2 / 3), "0.667"),
        (12, "12"), (0, "0"), (None, "-"), ("as it is", "as it is"), ("", ""),
    ],
)  # fmt: skip
def test_a_cell(value, cell):
    assert markdown_table(["head"], [[value]]).splitlines()[2] == f"| {cell} |"


def test_a_table_keeps_the_order_of_rows_and_columns():
    assert markdown_table(["run", "F1", "n"], [["baseline", 0.5, 3], ["ASA", None, 140]]) == (
        "| run | F1 | n |\n|---|---|---|\n| baseline | 0.500 | 3 |\n| ASA | - | 140 |"
    )


def test_a_table_without_rows_is_its_head():
    assert markdown_table(["run", "F1"], []) == "| run | F1 |\n|---|---|"


def test_a_rate_stands_before_its_interval():
    scores = {"f1": 0.9444, "fpr": 0.1, "intervals": {"fpr": [0.05, 0.2], "f1": [0.92449, 0.9606]}}
    assert with_interval(scores, "f1") == "0.944 (0.924-0.961)"
    assert with_interval(scores, "fpr") == "0.100 (0.050-0.200)"
    assert with_interval({"f1": 0.0, "intervals": {"f1": None}}, "f1") == "0.000 (-)"
    assert with_interval({"fpr": None, "intervals": {"fpr": None}}, "fpr") == "-"
    assert rate_with_interval({"rate": 0.75, "interval": [0.5, 0.9], "hits": 3, "total": 4}) == "0.750 (0.500-0.900)"


def test_they_read_what_the_evaluation_gives():
    """20 of 50 are precise, by Wilson; nothing was called, so nothing is known."""
    called, labels = [True] * 50 + [False] * 90, [1] * 20 + [0] * 30 + [1] * 40 + [0] * 50
    assert with_interval(trigger_metrics(called, labels, 0), "precision") == "0.400 (0.276-0.538)"
    tools = {"f": Tool("f", "", {"type": "object", "properties": {}}, "math")}
    assert rate_with_interval(call_validity([], tools, ("<", ">"))["format"]) == "-"


def test_a_mean_and_its_deviation():
    assert mean_and_deviation({"mean": 0.9444, "std": 0.01251}) == "0.944 ± 0.013"
    assert mean_and_deviation({"mean": 0.25, "std": 0.125}, "+.3f") == "+0.250 ± 0.125"
    assert mean_and_deviation({"mean": 0.5, "std": None}) == "0.500 ± -"
    assert mean_and_deviation({"mean": 0.5, "std": 0.1, "counted": 2, "total": 3}) == "0.500 ± 0.100 (2 of 3 have one)"
    assert mean_and_deviation({"mean": None, "std": None, "counted": 0, "total": 2}) == "-"


def test_a_missing_number_is_a_dash():
    assert (printed(0.0), printed(None), printed(-0.25, "+.2f"), printed(None, ".4f")) == ("0.000", "-", "-0.25", "-")


def test_rates_are_printed_with_what_is_missing_and_why():
    """One line per run, then a sentence; below a table the sentence stands in a paragraph of its own."""
    runs = {"baseline": trigger_metrics([True, False], [1, 1], 0), "asa": trigger_metrics([True, True], [1, 1], 0)}
    why = "No request without need of a tool, so there is no FPR."
    assert rate_lines(runs, ("recall", "fpr")) == (
        f"baseline   recall 0.500  fpr -\nasa        recall 1.000  fpr -\n{why}"
    )
    assert with_reasons("| table |", runs) == f"| table |\n\n{why}"
    full = {"baseline": trigger_metrics([True, False], [1, 0], 0)}
    assert rate_lines(full, ("fpr",)) == "baseline   fpr 0.000" and with_reasons("| table |", full) == "| table |"


def test_calls_in_words():
    """Without a reference nothing is said of the job."""
    rate = {"called": {"rate": 0.953}, "job": {"rate": 0.0281, "total": 214}}
    assert calls_in_words({"asa": rate}) == (
        "Where a tool is needed, 0.95 of ASA's answers call one; of the 214 that can be judged, 0.03 do the job."
    )
    assert calls_in_words({"asa": rate | {"job": {"rate": None, "total": 0}}}).endswith(
        "0.95 of ASA's answers call one."
    )
