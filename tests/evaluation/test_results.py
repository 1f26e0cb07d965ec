"""Results: the committed files come back whole, and a damaged file is blamed on itself and the key at fault."""

import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from asa.evaluation.results import Results
from asa.support.files import UserError, write_json

OUTPUTS = Path(__file__).parents[2] / "outputs"
FILES = [OUTPUTS / "results.json", OUTPUTS / "gemma3-270m" / "results.json"]


@pytest.fixture
def value() -> dict:
    return json.loads(FILES[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", FILES, ids=("embedded", "gemma3-270m"))
def test_a_committed_file_comes_back_whole(path, tmp_path):
    value = json.loads(path.read_text(encoding="utf-8"))
    results = Results.load(path)
    assert results.to_json() == value
    write_json(tmp_path / "results.json", results.to_json())
    assert Results.load(tmp_path / "results.json") == results


def test_each_number_is_read_from_its_own_key(value):
    results = Results.from_json(value)
    assert results.run.benchmark.n_test == value["benchmark"]["n_test"] == 640
    assert results.chosen.layer == value["layer"] and results.readings.layer_plateau == value["layer_plateau"]
    assert results.scores.mcnemar.only_b == value["mcnemar"]["only_b"] != value["mcnemar_paper"]["only_b"]
    assert results.scores.test["asa"]["f1"] == value["test"]["asa"]["f1"]


def test_no_section_hides_another_ones_key(value):
    """In the file the sections stand side by side."""
    parts = [getattr(Results.from_json(value), field.name) for field in fields(Results)]
    keys = [field.name for part in parts if is_dataclass(part) for field in fields(part)]
    flat = [field.name for field, part in zip(fields(Results), parts, strict=True) if not is_dataclass(part)]
    assert sorted(keys + flat) == sorted({*value, "calls", "made_with", "target_fpr", "tool_choice"})


def test_files_of_earlier_runs_have_no_calls(value):
    """They are read, and written as they were; so is a run whose calls the model wrote freely."""
    for missing in ({"calls", "target_fpr", "tool_choice"}, {"tool_choice"}):
        earlier = {key: part for key, part in value.items() if key not in missing}
        results = Results.from_json(earlier)
        assert results.to_json() == earlier
        assert (results.scores.calls == {}) == ("calls" in missing) and results.tuning.tool_choice == {}


def test_finished_adds_the_study_and_the_time(value):
    results = Results.from_json(value).finished({"ladder": {}}, {"loading": 1.25, "sweep": 2.5})
    assert results.to_json() == value | {
        "proof": {"ladder": {}}, "stage_seconds": {"loading": 1.25, "sweep": 2.5}, "seconds": 3.75,
    }  # fmt: skip


@pytest.mark.parametrize("key", ["layer", "test", "mcnemar", "seed", "proof"])
def test_a_missing_key_is_named(value, key, tmp_path):
    del value[key]
    write_json(tmp_path / "damaged.json", value)
    with pytest.raises(UserError, match=f"damaged.json has no key '{key}'"):
        Results.load(tmp_path / "damaged.json")


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("layer", "12"), ("layer", True), ("alpha", None), ("test", []), ("gap_closed", "0.9"), ("domains", "math")],
)
def test_a_wrong_kind_is_named(value, key, wrong):
    with pytest.raises(UserError, match=f"^results.json: '{key}' must be "):
        Results.from_json(value | {key: wrong})


def test_a_key_inside_another_is_named_with_it(value):
    with pytest.raises(UserError, match=r"no key 'mcnemar.p_value'"):
        Results.from_json(value | {"mcnemar": {"only_a": 1, "only_b": 2}})
    with pytest.raises(UserError, match=r"'benchmark.n_test' must be int"):
        Results.from_json(value | {"benchmark": {"name": "alpaca", "n_test": None}})


def test_no_gap_is_a_value_and_whole_numbers_are_numbers(value):
    results = Results.from_json(value | {"gap_closed": None, "alpha": 4})
    assert results.scores.gap_closed is None and results.chosen.alpha == 4


@pytest.mark.parametrize("text", ["{", "[]", "null", "5", "\xff"])
def test_what_is_no_results_file_is_refused_by_name(text, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"results\.json "):
        Results.load(path)
    with pytest.raises(UserError, match=r"missing\.json cannot be read"):
        Results.load(tmp_path / "missing.json")
