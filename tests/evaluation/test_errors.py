"""Errors: every wrong decision is listed once, named by its source, with the part that went wrong."""

import csv
from pathlib import Path

import pytest

from asa.adapter import Decision
from asa.data.requests import Request
from asa.evaluation.errors import diagnosis, load_notes, write_errors


def decided(p_tool: float, gate: int, domain: str = "math") -> Decision:
    return Decision(domain, p_tool, gate, 5, 0.5 * abs(gate), 0.9)


@pytest.mark.parametrize(
    ("label", "decision", "p_own", "words"),
    [
        (1, decided(0.97, 1), 0.97, "the gate was right, the model did not follow the push"),
        (0, decided(0.03, -1), 0.03, "the gate was right, the model did not follow the push"),
        (0, decided(0.97, 1), 0.97, "the probes were sure and wrong (p 0.97)"),
        (1, decided(0.04, -1), 0.04, "the probes were sure and wrong (p 0.04)"),
        (1, decided(0.41, -1), 0.41, "the probes were unsure and wrong (p 0.41)"),
        (1, decided(0.55, 0), 0.55, "the gate left it to the model (p 0.55)"),
        (1, decided(0.4, -1), 0.93, "its own probe is right (0.93), all together are wrong (p 0.40)"),
        (
            0, decided(0.8, 1, "code"), 0.3,
            "taken for code, its own probe is right (0.30), all together are wrong (p 0.80)",
        ),
        (
            1, decided(0.2, -1, "code"), 0.5,
            "taken for code, its own probe is right (0.50), all together are wrong (p 0.20)",
        ),
        (0, decided(0.8, 1, "code"), 0.6, "the probes were unsure and wrong (p 0.80)"),
    ],
)  # fmt: skip
def test_the_part_that_went_wrong_is_named(label, decision, p_own, words):
    assert diagnosis(label, decision, p_own, "math") == words


REQUESTS = [
    Request("secret text one", 1, "math", "alpaca:7"),
    Request("secret text two", 0, "code", "alpaca:8"),
    Request("secret text three", 1, "code", "alpaca:9"),
    Request("secret text four", 0, "math", "alpaca:10"),
]


def test_all_errors_and_nothing_else_are_listed(tmp_path):
    notes = tmp_path / "notes.csv"
    notes.write_text("source,doubt,note\nalpaca:8,1,asks for a program\nalpaca:9,0,never looked at\n", encoding="utf-8")
    steered = [False, True, True, False]  # the first is missed, the second a false call
    text = write_errors(
        REQUESTS, [False, False, True, True], steered, [0.2] * 4, [decided(0.2, -1)] * 4, load_notes(notes),
        "rough numbers", tmp_path / "errors.md",
    )  # fmt: skip
    rows = [line.split(" | ") for line in text.splitlines() if "alpaca:" in line]
    assert [row[2] for row in rows] == ["alpaca:8", "alpaca:7"]
    assert rows[0][0] == "| code" and rows[0][1] == "false call" and rows[0][3] == "right"
    assert rows[0][5:] == ["asks for a program", "doubted |"]
    assert rows[1][1] == "missed" and rows[1][3] == "wrong too" and "doubted" not in rows[1][6]
    assert "Of 4 TEST requests the steered model decides 2 wrongly: 1 calls missed, 1 false. In 1 of them" in text
    assert text.startswith("# Errors\n\n(rough numbers)\n\nOf 4")
    assert "secret" not in text and (tmp_path / "errors.md").read_text(encoding="utf-8") == text


def test_without_notes_there_is_no_doubt(tmp_path):
    assert load_notes(tmp_path / "none.csv") == {}


def test_the_notes_of_the_project_are_whole_and_of_annotated_rows():
    """No note is cut at a comma, and every one belongs to a request that we labelled."""
    data = Path(__file__).parents[2] / "data"
    with (data / "error_notes.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    with (data / "annotations.csv").open(encoding="utf-8", newline="") as file:
        labelled = {f"alpaca:{line['row']}" for line in csv.DictReader(file)}
    assert lines[0] == ["source", "doubt", "note"] and {len(line) for line in lines} == {3}
    assert {line[0] for line in lines[1:]} <= labelled and {line[1] for line in lines[1:]} == {"0", "1"}
    assert len(load_notes(data / "error_notes.csv")) == len(lines) - 1
