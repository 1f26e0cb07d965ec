"""The READMEs: their numbers are the committed run's, in both languages, and what they name exists."""

import itertools
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README_KR.md")
GAPS = {  # the sentences that quote `gap_closed` and `gap_closed_paper`; the latter alone
    "README.md": (
        r"the action direction closes (\S+) and the paper's, at its own best setting on VALID \([^)]*\), (\S+);",
        r"On this split the paper's closes (\S+) of the gap",
    ),
    "README_KR.md": (
        r"가운데 action 방향이 (\S+), VALID에서 가장 좋은 설정\([^)]*\)의 논문 방향이 (\S+)[을를] 메웁니다",
        r"이 분할에서 논문의 방향은 .*? 차이의 (\S+)[을를] 메웁니다",
    ),
}
BENCHMARK_HEADS = {
    "README.md": "| work | ours | plain | ratio |",
    "README_KR.md": "| 일 | 우리 | 단순한 방식 | 비 |",
}
BENCHMARK_ROWS = (
    "last-token states",
    "one sweep setting",
    "baseline + ASA generation",
    "whole pipeline, same work, reduced size",
)
RESULTS = json.loads((ROOT / "outputs" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("readme", READMES)
def test_result_table_is_the_committed_run(readme):
    """Each run's row shows results.json's numbers to three decimals."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    for run in ("baseline", "probe", "asa_paper", "asa"):
        rates = [RESULTS["test"][run][name] for name in ("precision", "recall", "f1", "fpr", "accuracy")]
        row = " | ".join(f"{rate:.3f}" for rate in rates)
        assert row in text, (run, row)


@pytest.mark.parametrize("readme", READMES)
def test_the_gaps_in_the_text_are_the_committed_runs(readme):
    """Each sentence that quotes them is there, once, with two decimals."""
    text = " ".join((ROOT / readme).read_text(encoding="utf-8").split())
    ours, papers = (f"{RESULTS[name]:.2f}" for name in ("gap_closed", "gap_closed_paper"))
    both, again = GAPS[readme]
    assert re.findall(both, text) == [(ours, papers)]
    assert re.findall(again, text) == [papers]


def table_below(text: str, head: str) -> list[list[str]]:
    """The cells of the Markdown table with that head."""
    lines = text.splitlines()
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index(head) + 2 :])
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def measure(cell: str) -> tuple[float, str]:
    """Number and unit of a cell: `1570 s`, `1.57e+03 s`, `17.8`, `17.8 x`."""
    number, _, unit = cell.removesuffix(" x").partition(" ")
    return float(number.replace(",", "")), unit


@pytest.mark.parametrize("readme", READMES)
def test_the_benchmark_table_is_the_committed_benchmarks(readme):
    """The same three significant digits and units, for as many requests."""
    benchmark = (ROOT / "benchmarks" / "results.md").read_text(encoding="utf-8")
    measured = table_below(benchmark, "| work | ours | theirs | ratio | reach | equal |")
    quoted = table_below((ROOT / readme).read_text(encoding="utf-8"), BENCHMARK_HEADS[readme])
    for beginning, (work, *cells) in zip(BENCHMARK_ROWS, quoted, strict=True):
        ((name, *measures, _, equal),) = (row for row in measured if row[0].startswith(beginning))
        assert [*map(measure, cells)] == [*map(measure, measures)], beginning
        assert set(re.findall(r"\d+", name)) <= set(re.findall(r"\d+", work)), beginning
        assert equal == "yes"  # as the README says above its table


def test_both_languages_give_the_same_numbers():
    """Every number with decimals stands in both."""
    found = [set(re.findall(r"\d*\.\d{2,}", (ROOT / readme).read_text(encoding="utf-8"))) for readme in READMES]
    assert found[0] == found[1]


@pytest.mark.parametrize("readme", READMES)
def test_files_and_modules_named_exist(readme):
    """Paths in the layout table, links and pictures."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    layout = [name for row in re.findall(r"^\| (`.*?`) \|", text, re.M) for name in re.findall(r"`([^`]+)`", row)]
    modules = [name if "/" in name or (ROOT / name).exists() else f"asa/{name}" for name in layout if "-" not in name]
    assert len(linked) >= 4 and len(modules) >= 20
    for path in [*linked, *modules]:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("readme", READMES)
def test_the_two_commands_stand_alone(readme):
    """The main job and the tests, as a newcomer would paste them."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert "pip install -r requirements.txt && python pipeline.py\n" in text
    assert "pip install -r requirements.txt && python -m pytest\n" in text


def test_committed_results_come_from_the_alpaca_benchmark():
    """The outputs in the repository are the 1,600-request run's, and carry no request text."""
    assert RESULTS["benchmark"] == {"name": "alpaca", "n_test": 640}
    assert RESULTS["profile"] == "embedded"
    assert not list((ROOT / "outputs").rglob("*.jsonl"))
