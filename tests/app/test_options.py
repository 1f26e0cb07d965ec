"""Options: the pipeline's cell of parameters and its command line, read and checked."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import create_notebook as builder
from asa.app.options import ASKED
from asa.support.files import UserError, shipped


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The home folder, and an empty one to work in."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ASA_ALPACA", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def sentence(call) -> str:
    """The one sentence by which a call is refused."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message
    return message


def read_parameters(**given) -> dict:
    """The options that the pipeline takes from its cell of parameters, where a notebook's form changes some of it."""
    cells = {cell.id: cell for cell in builder.parse_script((ROOT / "pipeline.py").read_text("utf-8"))}
    found: dict = {}
    exec(cells["parameters"].text, found)
    exec(cells["asked"].text, found := found | given)
    exec(cells["options"].text, found)
    return {name.upper(): value for name, value in vars(found["options"]).items()}


def test_the_pipelines_own_values_are_read_as_they_stand(home):
    found = read_parameters()
    assert found == {
        "PROFILE": "auto", "PROMPT_STYLE": "liquid", "ALPACA": "", "REQUESTS": "", "TOOLS": shipped("data/tools.json"),
        "OUT": "outputs", "LAYERS": "", "DEVICE_MAP": "", "PROOF": "", "GRAMMAR": True, "QUICK": False, "SEED": 0,
        "DEMO_ROWS": 6, "CHAT": False,
    }  # fmt: skip
    empty = read_parameters(**dict.fromkeys(found))
    assert {name: empty[name] for name in found} == found


def test_the_pipeline_reads_every_parameter(home):
    """As a form, a notebook or the command line may give it."""
    given = {
        "PROFILE": Path("~/model"), "PROMPT_STYLE": "Original", "ALPACA": " ~/a.parquet", "REQUESTS": Path("~/r.jsonl"),
        "TOOLS": "~/tools.json", "OUT": Path("~/out"), "LAYERS": (8, 12), "DEVICE_MAP": "AUTO", "PROOF": "All",
        "GRAMMAR": "off", "QUICK": "no", "SEED": "7", "DEMO_ROWS": "3", "CHAT": "false",
    }  # fmt: skip
    found = read_parameters(**given)
    assert {name: found[name] for name in given} == {
        "PROFILE": f"{home}/model", "PROMPT_STYLE": "original", "ALPACA": f"{home}/a.parquet",
        "REQUESTS": f"{home}/r.jsonl", "TOOLS": f"{home}/tools.json", "OUT": f"{home}/out", "LAYERS": "8,12",
        "DEVICE_MAP": "auto", "PROOF": "all", "GRAMMAR": False, "QUICK": False, "SEED": 7, "DEMO_ROWS": 3,
        "CHAT": False,
    }  # fmt: skip
    for name in given:
        bad = object()
        assert f"{name} is " in sentence(lambda name=name, bad=bad: read_parameters(**{name: bad}))


def test_a_quick_look_has_a_folder_of_its_own_and_proves_nothing(home):
    assert read_parameters(QUICK="yes")["OUT"] == "outputs/quick"
    assert "leave one of them out" in sentence(lambda: read_parameters(QUICK=True, PROOF="all"))


def on_command_line(monkeypatch, *given: str, **form) -> dict:
    """The checked options of `python pipeline.py` with `given`, where its cell of parameters has `form`."""
    monkeypatch.setattr(sys, "argv", ["pipeline.py", *given])
    cells = {cell.id: cell for cell in builder.parse_script((ROOT / "pipeline.py").read_text("utf-8"))}
    found: dict = {}
    exec(cells["parameters"].text, found)
    exec(cells["asked"].text, found | form, found := {})
    return vars(found["asked"].from_command_line().checked())


def test_the_command_line_wins_over_the_form(home, monkeypatch):
    """And what it does not say is the form's."""
    plain = on_command_line(monkeypatch)
    assert plain == {name.lower(): value for name, value in read_parameters().items()}
    form = {"GRAMMAR": False, "QUICK": True, "OUT": "mine", "SEED": 3}
    kept = {"grammar": False, "quick": True, "out": "mine/quick", "seed": 3}
    assert on_command_line(monkeypatch, **form) == plain | kept
    words = {"prompt_style": "original", "layers": "8", "device_map": "auto", "proof": "all"}
    given = {name: words.get(name, f"my-{name}") for name in ASKED}
    said = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert on_command_line(monkeypatch, *said, "--no-grammar", OUT="mine") == plain | given | {"grammar": False}
    assert on_command_line(monkeypatch, "--quick")["out"] == "outputs/quick"
    monkeypatch.setenv("ASA_ALPACA", "its.parquet")
    assert on_command_line(monkeypatch)["alpaca"] == "its.parquet"
    assert on_command_line(monkeypatch, "--alpaca", "mine.parquet")["alpaca"] == "mine.parquet"
