"""The READMEs: their numbers are the committed run's, in both languages, and what they name exists."""

import itertools
import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README_KR.md")
GAPS = {  # the sentences that quote `gap_closed` and `gap_closed_paper`: both, the latter alone; those of Gemma
    "README.md": (
        r"the action direction closes (\S+) and the paper's, at its own best setting on VALID \([^)]*\), (\S+);",
        r"On this split the paper's closes (\S+) of the gap",
        r"On Gemma the action direction closes (\S+) of the gap and the paper's (\S+) \(",
    ),
    "README_KR.md": (
        r"가운데 action 방향이 (\S+), VALID에서 가장 좋은 설정\([^)]*\)의 논문 방향이 (\S+)[을를] 메웁니다",
        r"이 분할에서 논문의 방향은 .*? 차이의 (\S+)[을를] 메웁니다",
        r"Gemma에서는 action 방향이 차이의 (\S+), 논문의 방향이 (\S+)[을를] 메웁니다",
    ),
}
HELD_OUT = {  # baseline's and ASA's F1 with its interval, and their FPR
    "README.md": r"F1 goes from (\S+) to (\S+) \((\S+)\) and FPR from (\S+) to ([\d.]+\d)",
    "README_KR.md": r"F1이 (\S+)에서 ([\d.]+)\((\S+)\)로, FPR이 (\S+)에서 ([\d.]+)로 바뀝니다",
}
PROOF_HEADS = {
    "README.md": "| | SmolLM2: F1 | FPR | arguments fit | kept | Gemma: F1 | FPR | arguments fit |",
    "README_KR.md": "| | SmolLM2: F1 | FPR | 인자가 맞음 | 유지 | Gemma: F1 | FPR | 인자가 맞음 |",
}
PROOF_ROWS = (  # the rungs whose mean each row shows
    ("prompt with 8 examples",),
    ("prompt with 4 examples",),
    ("prompt with 2 examples",),
    ("LoRA, rank 16",),
    ("Probe&Prefill",),
    ("trigger forced or forbidden",),
    ("necessity: full",),
    ("necessity: domain only",),
    ("action: full",),
    tuple(f"action: random direction {number}" for number in (1, 2, 3)),
    ("action: no gate",),
    ("action: oracle router",),
)
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
FOLDERS = {"embedded": ROOT / "outputs", "gemma3-270m": ROOT / "outputs" / "gemma3-270m"}
RUNS = {name: json.loads((folder / "results.json").read_text(encoding="utf-8")) for name, folder in FOLDERS.items()}
RESULTS, GEMMA = RUNS.values()


@pytest.mark.parametrize("results", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("readme", READMES)
def test_result_tables_are_the_committed_runs(readme, results):
    """Each run's row shows results.json's numbers to three decimals."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    for run in ("baseline", "probe", "asa_paper", "asa"):
        rates = [results["test"][run][name] for name in ("precision", "recall", "f1", "fpr", "accuracy")]
        row = " | ".join(f"{rate:.3f}" for rate in rates)
        assert row in text, (run, row)


@pytest.mark.parametrize("readme", READMES)
def test_the_gaps_in_the_text_are_the_committed_runs(readme):
    """Each sentence that quotes them is there, once, with two decimals."""
    text = " ".join((ROOT / readme).read_text(encoding="utf-8").split())
    (ours, papers), gemmas = (
        tuple(f"{results[name]:.2f}" for name in ("gap_closed", "gap_closed_paper")) for results in (RESULTS, GEMMA)
    )
    both, again, on_gemma = GAPS[readme]
    assert RESULTS["direction"] == GEMMA["direction"] == "action"  # as the sentences say
    assert re.findall(both, text) == [(ours, papers)]
    assert re.findall(again, text) == [papers]
    assert re.findall(on_gemma, text) == [gemmas]


def mean_of(results: dict, rungs: tuple[str, ...], part: str, name: str) -> str:
    """A cell of the proof's table; "-" where a run has no such rung, or no calls on it."""
    values = [of[part][name] for rung, of in results["proof"]["ladder"].items() if rung in rungs]
    if part != "scores":  # rates that say how many they count
        values = [value["rate"] for value in values if value["total"]]
    return f"{statistics.mean(values):.3f}" if values else "-"


@pytest.mark.parametrize("readme", READMES)
def test_the_proof_table_is_the_committed_ladders(readme):
    """Of both models, to three decimals."""
    rates = [("scores", "f1"), ("scores", "fpr"), ("validity", "arguments")]
    rows = table_below((ROOT / readme).read_text(encoding="utf-8"), PROOF_HEADS[readme])
    for rungs, (label, *cells) in zip(PROOF_ROWS, rows, strict=True):
        kept = mean_of(RESULTS, rungs, "damage", "words_kept")
        smols, gemmas = ([mean_of(results, rungs, *rate) for rate in rates] for results in (RESULTS, GEMMA))
        assert cells == [*smols, kept, *gemmas], label


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
    """Paths in the layout table, which names every room, links and pictures."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    layout = [name for row in re.findall(r"^\| (`.*?`) \|", text, re.M) for name in re.findall(r"`([^`]+)`", row)]
    modules = [name if "/" in name or (ROOT / name).exists() else f"asa/{name}" for name in layout if "-" not in name]
    rooms = {f"asa/{path.parent.name}/" for path in (ROOT / "asa").glob("*/__init__.py")}
    assert len(linked) >= 4 and rooms <= set(modules)
    for path in [*linked, *modules]:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("readme", READMES)
def test_the_two_commands_stand_alone(readme):
    """The main job and the tests, as a newcomer would paste them."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    assert "pip install -r requirements.txt && python pipeline.py\n" in text
    assert "pip install -r requirements.txt && python -m pytest\n" in text


@pytest.mark.parametrize("readme", READMES)
def test_the_held_out_numbers_are_the_committed_ones(readme):
    """Of both models, in their sentences."""
    text = " ".join((ROOT / readme).read_text(encoding="utf-8").split())
    expected = []
    for folder in FOLDERS.values():
        held_out = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
        assert held_out["n"] == 240
        bounds = "-".join(f"{bound:.3f}" for bound in held_out["asa"]["intervals"]["f1"])
        f1, fpr = ([f"{held_out[run][name]:.3f}" for run in ("baseline", "asa")] for name in ("f1", "fpr"))
        expected.append((*f1, bounds, *fpr))
    assert re.findall(HELD_OUT[readme], text) == expected


@pytest.mark.parametrize(("profile", "results"), RUNS.items(), ids=RUNS)
def test_committed_results_come_from_the_alpaca_benchmark(profile, results):
    """The outputs in the repository are the 1,600-request run's, by the folder's model."""
    assert results["benchmark"] == {"name": "alpaca", "n_test": 640}
    assert results["profile"] == profile


def test_committed_results_carry_no_request_text():
    """No JSON lines, no request of the project's own, and no string long enough to be one of Alpaca's."""
    assert not list((ROOT / "outputs").rglob("*.jsonl"))
    own = [path.read_text(encoding="utf-8").splitlines() for path in (ROOT / "data").glob("*.jsonl")]
    texts = [json.loads(line)["text"] for line in itertools.chain(*own)]
    for folder in FOLDERS.values():
        for path in [*folder.glob("*.md"), *folder.glob("*.json")]:
            written = path.read_text(encoding="utf-8")
            assert not [text for text in texts if len(text) > 20 and text in written], path
            if path.suffix == ".json":
                assert max(map(len, re.findall(r'"((?:[^"\\]|\\.)*)"', written))) < 60, path
