"""Demo: both answers, what was decided, and nothing that a browser would take for a tag."""

import builtins
import re
from types import SimpleNamespace

import IPython.display
import numpy as np
import pytest

from asa.adapter import Decision
from asa.data.requests import Request
from asa.data.splits import Split
from asa.evaluation.comparisons import (
    Comparison,
    comparisons_html,
    comparisons_text,
    show_comparisons,
    show_samples,
    telling_rows,
)

TRIGGER = "<tool_call>"
CALL = '<tool_call>[f(x="<b>1 & 2</b>")]</tool_call>'
ROWS = [
    Comparison("What is 2+2?\n<script>alert(1)</script>", 1, "Four.", CALL, Decision("math", 0.98765, 1, 21, 0.4, 0.9)),
    Comparison("Why <i>so</i>?", 0, CALL, "Because.", Decision("<code>", 0.0123, -1, 21, 0.35, 0.9)),
    Comparison("Hm", None, "Yes.", "Yes.", Decision("search", 0.5, 0, 21, 0.0, 0.4)),
]


def test_text_shows_request_answers_and_decision():
    blocks = comparisons_text(ROWS, TRIGGER).split("\n")
    assert blocks[:4] == [
        "[TOOL] What is 2+2? <script>alert(1)</script>",
        "  baseline  answers in words ✗: Four.",
        f"  ASA       calls a tool ✓: {CALL}",
        "            math, p(tool) 0.988, gate +1",
    ]
    assert blocks[4] == "[NO TOOL] Why <i>so</i>?"
    assert (
        blocks[5].startswith("  baseline  calls a tool ✗: ") and blocks[6] == "  ASA       answers in words ✓: Because."
    )
    assert blocks[7].endswith("<code>, p(tool) 0.012, gate -1")
    assert blocks[9] == "  baseline  answers in words: Yes."  # of no label, so neither right nor wrong
    assert blocks[8] == "Hm" and blocks[11].endswith("search, p(tool) 0.500, gate +0")
    assert len(blocks) == 12


@pytest.mark.parametrize("long", ["word " * 100, "x" * 500, "a\n" * 300])
def test_text_keeps_one_line_a_thing(long):
    row = Comparison(long, 1, long, long, ROWS[0].decision)
    lines = comparisons_text([row], TRIGGER).split("\n")
    assert len(lines) == 4
    assert all(len(line) < 190 for line in lines)
    assert lines[0].endswith("…")
    exact = Comparison("y" * 150, None, "z" * 151, "", ROWS[0].decision)
    first, second, *_ = comparisons_text([exact], TRIGGER).split("\n")
    assert first == "y" * 150
    assert second.endswith("z" * 149 + "…")


def test_a_call_is_recognised_behind_the_cut():
    """What is shown may be shortened; what is said about it is not."""
    late = "word " * 60 + CALL
    assert "baseline  calls a tool" in comparisons_text([Comparison("q", 1, late, late, ROWS[0].decision)], TRIGGER)


def test_a_rehearsed_call_is_not_said_to_be_one():
    thought = f"{CALL}</think>Four."
    row = Comparison("q", 1, thought, f"<think>{thought}{CALL}", ROWS[0].decision)
    text = comparisons_text([row], TRIGGER)
    assert "baseline  answers in words" in text and "ASA       calls a tool" in text


def test_html_is_escaped():
    """A raw `<tool_call>` would vanish in a browser, and a request could bring a script."""
    page = comparisons_html(ROWS, TRIGGER)
    assert "<tool_call>" not in page and "&lt;tool_call&gt;" in page
    assert set(re.findall(r"</?([a-z_]+)", page)) == {"table", "tr", "th", "td", "b", "br"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "&lt;b&gt;1 &amp; 2&lt;/b&gt;" in page
    assert "&lt;code&gt;" in page and "&lt;i&gt;so" in page


def test_html_has_a_row_a_request_and_a_cell_a_column():
    head, *rows = re.findall(r"<tr>(.*?)</tr>", comparisons_html(ROWS, TRIGGER), re.DOTALL)
    columns = re.findall(r"<th>(.*?)</th>", head)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    assert columns == ["request", "needs", "baseline", "ASA", "domain", "p(tool)", "gate"]
    assert [len(row) for row in cells] == [7, 7, 7]
    assert [row[1] for row in cells] == ["tool", "words", ""]
    assert cells[0][2] == "<b>answers in words ✗</b><br>Four." and cells[0][3].startswith("<b>calls a tool ✓</b>")
    assert cells[0][4:] == ["math", "0.988", "+1"] and cells[1][5:] == ["0.012", "-1"] and cells[2][6] == "+0"


def test_nothing_to_compare_is_an_empty_table():
    assert comparisons_text([], TRIGGER) == ""
    assert comparisons_html([], TRIGGER).count("<tr>") == 1


def test_a_terminal_gets_text(capsys):
    show_comparisons(ROWS, TRIGGER)
    assert capsys.readouterr().out == comparisons_text(ROWS, TRIGGER) + "\n"


def test_a_notebook_gets_the_table(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(builtins, "get_ipython", lambda: SimpleNamespace(), raising=False)
    monkeypatch.setattr(IPython.display, "display", shown.append)
    show_comparisons(ROWS, TRIGGER)
    (page,) = shown
    assert page.data == comparisons_html(ROWS, TRIGGER)
    assert capsys.readouterr().out == ""


def test_a_terminal_is_told_of_control_characters_and_does_not_obey_them():
    row = Comparison("\x1b[2Jgone \x00\x9b", 1, "a\x07", "🙂\u200d", ROWS[0].decision)
    text = comparisons_text([row], TRIGGER)
    assert "[TOOL] \\x1b[2Jgone \\x00\\x9b\n" in text and ": a\\x07\n" in text and "🙂\u200d" in text


def test_telling_rows_show_each_domain_a_regression_and_no_row_twice():
    """One mended request per domain comes first, then one that steering spoiled, then the rest."""
    domains = ["math", "math", "search", "search", "code", "code"]
    labels = [1, 1, 0, 1, 0, 1]
    test = Split([Request("x", label, domain, "") for label, domain in zip(labels, domains, strict=True)], [])
    before = np.array([False, False, True, True, False, True])
    after = np.array([True, True, False, False, False, True])
    assert telling_rows(test, before, after, 6) == [0, 2, 3, 1, 4, 5]
    assert telling_rows(test, before, after, 3) == [0, 2, 3]


def test_samples_show_both_labels(capsys):
    rows = [Request(f"text {n}", n % 2, "math", "") for n in range(6)]
    show_samples(rows)
    assert capsys.readouterr().out.splitlines() == [
        "needs a tool (math): text 1", "needs a tool (math): text 3",
        "words are enough (math): text 0", "words are enough (math): text 2",
    ]  # fmt: skip
