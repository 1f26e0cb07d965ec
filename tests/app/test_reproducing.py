"""Reproduction: the same run gives the same numbers, and one that differs is named with what differs in the making."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from asa.app.reproducing import (
    MEASURES,
    RUNS,
    SETTING,
    WITH_INTERVAL,
    compare,
    evaluated_again,
    evaluations,
    in_words,
    options_of,
    reasons,
)
from asa.evaluation.results import Results
from asa.support.files import UserError

ROOT = Path(__file__).parents[2]
NANO = ROOT / "tests" / "nano"


@pytest.fixture
def committed() -> Results:
    results = Results.load(ROOT / "outputs" / "results.json")
    return replace(results, run=replace(results.run, made_with={"torch": "2.13.0", "threads": 2}))


def changed(results: Results, **scores: float) -> Results:
    """With other scores of ASA."""
    test = results.scores.test | {"asa": results.scores.test["asa"] | scores}
    return replace(results, scores=replace(results.scores, test=test))


def test_equal_runs_are_said_to_be_equal(committed):
    compared = compare(committed, committed)
    jobs = [one for one in compared if one.name == "job"]
    ranges = [one for one in compared if one.name == "job from, to"]
    assert [one.of for one in jobs] == ["baseline", "asa_paper", "asa"] and all(0 < one.then < 1 for one in jobs)
    of_a_run = len(MEASURES) + len(WITH_INTERVAL)
    assert len(compared) == len(SETTING) + len(RUNS) * of_a_run + len(jobs + ranges) and all(
        one.same for one in compared
    )
    assert in_words(compared, []).endswith(f"All {len(compared)} are the same.")


def test_the_last_digit_counts_and_the_reason_is_named(committed):
    """Whatever differs in the making is named, and where nothing does, that is said."""
    f1 = committed.scores.test["asa"]["f1"]
    here = replace(committed, run=replace(committed.run, made_with=committed.run.made_with | {"torch": "9.9"}))
    here = changed(here, f1=f1 + 1e-12)
    compared = compare(committed, here)
    assert [(one.of, one.name) for one in compared if not one.same] == [("asa", "f1")]
    said = in_words(compared, reasons(committed, here))
    assert "asa               f1 " in said and f"1 of {len(compared)} differ." in said and "here 9.9" in said
    newer = replace(committed, run=replace(committed.run, made_with=committed.run.made_with | {"code": "abc"}))
    assert reasons(committed, newer) == ["code not said, here abc"]
    assert (
        in_words(compared, []).endswith("What differs: nothing that the file says of its making.")
        and repr(f1 + 1e-12) in said
    )
    old = replace(committed, run=replace(committed.run, made_with={}))
    assert reasons(old, here) == ["the file does not say what it was made with"]


def test_a_run_that_cannot_be_asked_for_is_refused_in_one_sentence(committed, monkeypatch):
    monkeypatch.delenv("ASA_ALPACA", raising=False)
    with pytest.raises(UserError, match=r"Alpaca's, and the hub does not answer: give .*--alpaca FILE"):
        options_of(committed, [], hub=False)
    with pytest.raises(UserError, match="seed 3, which only the notebook can set"):
        options_of(replace(committed, seed=3), [], hub=True)
    own = replace(committed, run=replace(committed.run, benchmark=replace(committed.run.benchmark, name="mine")))
    with pytest.raises(UserError, match="requests named 'mine': give their file, --requests FILE"):
        options_of(own, [], hub=True)
    assert options_of(own, ["--requests=mine.csv"], hub=False)[-1] == "--requests=mine.csv"


def test_the_options_are_the_run_s(committed):
    """The hand-written requests are named, or a hub that answers would give Alpaca."""
    assert options_of(committed, ["--alpaca", "a"], hub=False)[:2] == ["--profile", "embedded"]
    quick = replace(committed.run.benchmark, name="hand-written, quick look")
    free = replace(committed.tuning, tool_choice={})
    options = options_of(replace(committed, run=replace(committed.run, benchmark=quick), tuning=free), [], hub=True)
    assert {"--quick", "--no-grammar"} < set(options)
    assert Path(options[options.index("--requests") + 1]).name == "requests.jsonl"


def test_options_that_the_file_names_are_asked_for_again(committed):
    """Those that come last win."""
    made_with = {"layers": "3,5", "prompt-style": "original", "device-map": "auto"}
    run = replace(committed.run, made_with=made_with)
    options = options_of(replace(committed, run=run), ["--alpaca", "a", "--layers=7"], hub=False)
    assert {"--layers=3,5", "--prompt-style=original", "--device-map=auto"} < set(options)
    assert options.index("--layers=3,5") < options.index("--layers=7")


def test_an_evaluation_that_cannot_be_read_is_named(tmp_path):
    """Before anything is run again."""
    assert evaluations(tmp_path) == {} and evaluated_again({}, tmp_path) == []
    for text in ("{", "[1]", "5"):
        (tmp_path / "blind.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"blind\.json cannot be read \(.*run asa evaluate --json"):
            evaluations(tmp_path)
    (tmp_path / "blind.json").write_text('{"n": 3}', encoding="utf-8")
    assert evaluations(tmp_path) == {"blind": {"n": 3}}


@pytest.mark.slow
def test_the_nano_run_is_reproduced_and_a_changed_number_is_found(tmp_path):
    """From end to end, in a process each."""

    def ran(*command: object) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)

    given = ("--requests", NANO / "requests.jsonl")
    first = tmp_path / "first"
    assert (
        ran("pipeline.py", "--profile", NANO / "lfm2-nano", *given, "--out", first, "--layers", "2,5").returncode == 0
    )
    asked = ("--assets", first / "asa_assets", "--requests", "data/blind.jsonl", "--json")
    (first / "blind.json").write_text(ran("-m", "asa", "evaluate", *asked).stdout, encoding="utf-8")
    again = ("-m", "asa", "reproduce", first / "results.json", *given, "--out", tmp_path / "again")
    done = ran(*again[:-1], first)
    assert done.returncode == 1 and "give another folder, --out DIR" in done.stderr
    done = ran(*again[:3], *given, first / "results.json")
    assert done.returncode == 1 and "name the results.json first" in done.stderr
    done = ran(*again)
    assert done.returncode == 0 and done.stdout.strip().endswith("are the same."), done.stderr
    found = json.loads((first / "results.json").read_text("utf-8"))
    assert found["made_with"]["weights"] and found["made_with"]["threads"] > 0
    assert found["made_with"]["layers"] == "2,5" and "blind asa" in done.stdout
    found["test"]["asa"]["f1"] = 0.123
    found["made_with"]["threads"] = 99
    (first / "results.json").write_text(json.dumps(found), encoding="utf-8")
    done = ran(*again)
    assert done.returncode == 1 and "threads 99" in done.stdout and "1 of 39 differ" in done.stdout
