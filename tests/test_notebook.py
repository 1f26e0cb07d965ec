"""The notebook and the script, executed: in an empty folder, on a tiny model, twice, and in agreement."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbclient import NotebookClient
from programs import ROOT, run_cells, run_command, run_script, with_parameters
from safetensors.torch import load_file, save_file

from asa.data.requests import load_requests
from asa.data.splits import split_requests

pytestmark = pytest.mark.slow

PICTURES = ("probe_sweep.png", "hp_sweep.png", "baseline_vs_asa.png", "cosines.png")


def execute(folder: Path, parameters: dict) -> tuple[str, dict]:
    """The committed notebook in a kernel of its own, in `folder`; what it printed, and results.json."""
    notebook = with_parameters(parameters)
    client = NotebookClient(notebook, timeout=600, record_timing=False, store_widget_state=False, allow_stdin=False)
    client.resources = {"metadata": {"path": str(folder)}}
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    )
    return printed, results_in(folder / "outputs")


def results_in(folder: Path) -> dict:
    """What a run wrote."""
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def notebook_runs(tiny_folder, small_requests, tmp_path_factory):
    """The notebook run twice in one empty folder, the second time in this process: (folder, first run, second run)."""
    folder = tmp_path_factory.mktemp("empty")
    parameters = {"PROFILE": str(tiny_folder), "REQUESTS": str(small_requests)}
    first = execute(folder, parameters)
    return folder, first, (run_cells(folder, parameters), results_in(folder / "outputs"))


def test_notebook_runs_in_an_empty_folder_with_nothing_but_itself(notebook_runs):
    """Every file it promises is there, and the pictures hold a picture."""
    folder, (printed, results), _ = notebook_runs
    assert results["benchmark"] == {"name": "small", "n_test": 32}
    assert {"precision", "recall", "f1", "fpr", "accuracy", "tp", "fp", "fn", "tn"} <= results["test"]["asa"].keys()
    for picture in PICTURES:
        assert (folder / "outputs" / picture).stat().st_size > 10_000, picture
    assets = {path.name for path in (folder / "outputs" / "asa_assets").iterdir()}
    quickstart = {"steering_vectors.npz", "router.pkl", "probes.pkl", "scaler.pkl"}
    assert assets == {"config.json", "adapter.safetensors"} | quickstart
    assert "reused" not in printed


@pytest.mark.shows("A notebook that is run again reuses every stage")
def test_second_run_reuses_every_stage_and_says_so(notebook_runs):
    """The second run computes no stage and gives the same results."""
    _, (_, first), (printed, second) = notebook_runs
    for stage in first["stage_seconds"].keys() - {"loading"}:
        assert f"{stage}: reused from" in printed
    assert "took" not in printed
    other = ("seconds", "stage_seconds", "made_with")  # this process has one thread
    assert {k: v for k, v in first.items() if k not in other} == {k: v for k, v in second.items() if k not in other}
    assert first["made_with"] == second["made_with"] | {"threads": first["made_with"]["threads"]}


@pytest.fixture(scope="module")
def nano_run(tmp_path_factory):
    """What the notebook printed on the nano LFM2 and its own requests, and results.json.

    Its form gives texts where numbers are meant and nothing where the default is.
    """
    nano = ROOT / "tests" / "nano"
    parameters = {"PROFILE": str(nano / "lfm2-nano"), "REQUESTS": str(nano / "requests.jsonl")}
    parameters |= {"SEED": "0", "DEMO_ROWS": "6", "CHAT": "False", "OUT": "", "LAYERS": None}
    folder = tmp_path_factory.mktemp("nano-notebook")
    return run_cells(folder, parameters), results_in(folder / "outputs")


def test_on_the_nano_model_the_notebook_steers(nano_run):
    """A model that calls too often calls half as often without need afterwards, and is right at least as often."""
    _, results = nano_run
    baseline, steered = results["test"]["baseline"], results["test"]["asa"]
    assert steered["fpr"] <= baseline["fpr"] / 2
    assert steered["f1"] >= baseline["f1"]
    assert results["validity"]["asa"]["format"]["rate"] > 0.8


def test_on_the_nano_model_the_notebook_names_the_blind_layers(nano_run):
    """As in LFM2.5, the first two convolutions see nothing but the template's tail."""
    printed, results = nano_run
    assert "the same state for every prompt: layers [0, 1]." in printed
    assert results["layer"] > 1


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`python pipeline.py` with `arguments`, hub off."""
    clean = {name: value for name, value in os.environ.items() if name != "ASA_ALPACA"}
    return subprocess.run(
        [sys.executable, "pipeline.py", *arguments],
        cwd=ROOT,
        env=clean | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"} | environment,
        capture_output=True,
        text=True,
    )


def test_script_and_notebook_agree(notebook_runs, tiny_folder, small_requests, tmp_path):
    """The package and the notebook made from it give the same numbers."""
    done = in_a_process("--profile", str(tiny_folder), "--requests", str(small_requests), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    script = results_in(tmp_path)
    _, (_, notebook), _ = notebook_runs
    skipped = ("seconds", "stage_seconds")
    assert {k: v for k, v in script.items() if k not in skipped} == {
        k: v for k, v in notebook.items() if k not in skipped
    }


def test_new_weights_under_the_old_name_run_again(tiny_folder, small_requests, tmp_path):
    """Nothing is reused where folder, data and prompt are the same and the model is not."""
    folder = tmp_path / "tiny-lfm2"
    shutil.copytree(tiny_folder, folder)
    options = ("--profile", str(folder), "--requests", str(small_requests), "--out", str(tmp_path / "out"))
    assert run_script(*options).returncode == 0
    weights = load_file(folder / "model.safetensors")
    save_file({name: 1.01 * weight for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    done = run_script(*options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "states-cal: took" in done.stdout and "reused" not in done.stdout


def test_evaluate_command_gives_the_reported_numbers(notebook_runs, small_requests, tmp_path):
    """`python -m asa evaluate` on the TEST rows scores what results.json says, from the assets alone."""
    folder, (_, results), _ = notebook_runs
    test_rows = split_requests(load_requests(small_requests), seed=0)["test"]
    rows = tmp_path / "test.jsonl"
    rows.write_text("".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in test_rows))
    assets = folder / "outputs" / "asa_assets"
    done = run_command("evaluate", "--assets", assets, "--requests", rows, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    scored = json.loads(done.stdout)
    assert scored["n"] == 32
    for run in ("baseline", "probe", "asa"):
        assert {name: scored[run][name] for name in ("tp", "fp", "fn", "tn")} == {
            name: results["test"][run][name] for name in ("tp", "fp", "fn", "tn")
        }


def test_own_requests_and_own_tools_without_examples(tiny_folder, tmp_path):
    """A user's two tools, named in OpenAI's form, run through the whole pipeline; the domain is the tool."""
    tools = [
        {"type": "function", "function": {"name": name, "description": name, "parameters": {
            "type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}}}
        for name in ("weather", "calendar")
    ]  # fmt: skip
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    rows = [
        {"text": f"{verb} {name} number {i} {'now' if label else 'why'}", "label": label, "domain": name}
        for name in ("weather", "calendar")
        for label in (0, 1)
        for i, verb in enumerate("show tell open find give read list plan move send copy".split())
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = run_script(
        *("--profile", str(tiny_folder), "--requests", str(tmp_path / "rows.jsonl")),
        *("--tools", str(tmp_path / "tools.json"), "--out", str(tmp_path / "out")),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "asa_assets" / "config.json").read_text())["domains"] == [
        "weather",
        "calendar",
    ]


def test_the_examples_of_the_tools_file_are_kept_out_of_the_requests(tmp_path):
    """For any profile: the requests come before the model, which is none here."""
    tools = json.loads((ROOT / "data" / "tools.json").read_text())
    rows = [{"text": f"{tool['examples'][0]['request']}!", "label": 1, "domain": tool["domain"]} for tool in tools]
    own = (ROOT / "data" / "requests.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + own)
    done = run_script("--profile", "no-such/model", "--requests", str(tmp_path / "rows.jsonl"))
    assert (
        "requests: 644 rows (given)\n4 left out, which are among the tools' examples or resemble one\n" in done.stdout
    )


def test_a_terminal_that_cannot_print_a_name_does_not_end_the_run(tmp_path):
    """Neither what is printed on the way nor the sentence at the end: here, that there is no such model."""
    shutil.copy(ROOT / "data" / "requests.jsonl", tmp_path / "질문🙂.jsonl")
    options = ("--profile", "no-such/모델", "--requests", str(tmp_path / "질문🙂.jsonl"))
    done = in_a_process(*options, PYTHONIOENCODING="ascii")
    assert r"640 \uc9c8\ubb38\U0001f642 (given)" in done.stdout
    assert done.stderr.strip().splitlines()[-1].startswith(r"error: no-such/\ubaa8\ub378 cannot be loaded")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--profile", "nonesuch"), "nonesuch"),
        (("--tools", "nowhere.json"), "nowhere.json"),
        (("--requests", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--alpaca", "nowhere.parquet"), "nowhere.parquet"),
        (("--profile", "no-such-owner/no-such-model"), "no-such-owner/no-such-model"),
    ],
)
def test_bad_options_give_one_sentence_and_leave_nothing(arguments, named, tmp_path):
    """No traceback, the thing at fault named, no output folder."""
    done = run_script(*arguments, "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and named in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "requirements.txt"), "OUT: 'requirements.txt' is no folder that can be written (File exists): give"),
        (("--proof", "some"), "PROOF is 'some': give steering or all, or leave it empty."),
    ],
)
def test_parameters_are_read_before_any_work(arguments, said):
    """Before so much as the profile, which is none."""
    done = run_script("--profile", "nonesuch", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {said}") and done.stderr.count("\n") == 1


def test_a_layer_that_the_model_lacks_is_refused_before_prompts_are_read(tiny_folder, small_requests, tmp_path):
    options = ("--profile", str(tiny_folder), "--requests", str(small_requests), "--out", str(tmp_path / "out"))
    done = run_script(*options, "--layers", "1, 99")
    assert done.returncode == 1
    said = done.stderr.strip().splitlines()[-1]
    assert said == "error: layer '99', chosen by hand, is none of this model's: use 0 to 5."
    assert not (tmp_path / "out").exists()
