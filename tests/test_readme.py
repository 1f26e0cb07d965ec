"""The READMEs: their numbers are the committed run's, in both languages, and what they name exists."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README_KR.md")
RESULTS = json.loads((ROOT / "outputs" / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("readme", READMES)
def test_result_table_is_the_committed_run(readme):
    """Each run's row shows results.json's numbers to three decimals."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    for run in ("baseline", "probe", "asa_paper", "asa"):
        rates = [RESULTS["test"][run][name] for name in ("precision", "recall", "f1", "fpr", "accuracy")]
        row = " | ".join(f"{rate:.3f}" for rate in rates)
        assert row in text, (run, row)
    assert f"{RESULTS['gap_closed']:.2f}" in text and f"{RESULTS['gap_closed_paper']:.2f}" in text


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
