"""Interruption: a pipeline that is killed again and again goes on where it was, to the results of one that was not."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs import with_parameters

from asa.support.files import STOPPED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NANO = ROOT / "tests" / "nano"
POINTS = [*range(1, 11)] * 2  # the first ten die at stages, and ever later; the others as results are written
DYING = """
import os, runpy, signal, sys
from asa.support.environment import share_cores
share_cores()
left, replace = int(sys.argv.pop(1)), os.replace

def put(*names):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)  # the file is written, and not yet in its place
    replace(*names)

os.replace = put
sys.argv[0] = "pipeline.py"
runpy.run_path("pipeline.py", run_name="__main__")
"""
KERNEL = """
import json, os, sys
names = {"__name__": "__main__"}
for source in json.load(sys.stdin):
    exec(compile(source, "cell", "exec"), names)
sys.stdout.flush()
os._exit(0)  # as a kernel that is restarted: nothing is tidied up
"""


def run(out: Path, point: int) -> subprocess.CompletedProcess:
    """The pipeline, killed as it puts its file number `point` in place; 0: to its end."""
    given = ["--profile", NANO / "lfm2-nano", "--requests", NANO / "requests.jsonl", "--out", out]
    command = [sys.executable, "-W", "ignore", "-c", DYING, str(point), *map(str, given)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.shows("Ctrl-C ends a run in one line that says how to go on")
def test_control_c_says_how_to_go_on(tmp_path):
    """In one line, behind whatever bar was under way."""
    given = ["--profile", NANO / "lfm2-nano", "--requests", NANO / "requests.jsonl", "--out", tmp_path]
    command = [sys.executable, "-W", "ignore", "pipeline.py", *map(str, given)]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    while "states-cal: took" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert error.splitlines()[-1] == STOPPED and "Traceback" not in error


def results(out: Path) -> dict:
    """Without the seconds."""
    found = json.loads((out / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "stage_seconds")}


@pytest.mark.shows(
    "A run that is killed again and again goes on to the results of one that was not, repeats no "
    "finished stage and leaves nothing half-written"
)
def test_twenty_killings_change_nothing(tmp_path, tried):
    """At files of all stages; what a stage had finished is not repeated, and nothing half-written is left."""
    assert run(tmp_path / "whole", 0).returncode == 0
    finished: set[str] = set()
    for point in POINTS:
        died = run(tmp_path / "killed", point)
        assert died.returncode == -9, died.stderr[-2000:]
        again = set(re.findall(r"^([\w/+-]+): took", died.stdout, re.M))
        assert not again & finished
        finished = {
            str(path.relative_to(tmp_path / "killed" / "checkpoints").with_suffix(""))
            for path in (tmp_path / "killed" / "checkpoints").rglob("*.npz")
        }
    last = run(tmp_path / "killed", 0)
    assert last.returncode == 0 and not re.search(r": took", last.stdout)
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    left = [
        sorted(str(path.relative_to(tmp_path / one)) for path in (tmp_path / one).rglob("*") if path.is_file())
        for one in ("killed", "whole")
    ]
    assert left[0] == left[1]
    tried(len(POINTS), "kills")


def start(folder: Path, cells: list[str]) -> list[str]:
    """These cells of the notebook in a kernel's place, in `folder`; the stages that they computed."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", KERNEL]
    done = subprocess.run(command, cwd=folder, input=json.dumps(cells), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return re.findall(r"^([\w/+-]+): took", done.stdout, re.M)


@pytest.mark.shows(
    "A notebook whose kernel is restarted between any two cells goes on to the results of one run, computing each "
    "stage once"
)
def test_a_kernel_restarted_between_any_two_cells(tmp_path, tried):
    """Each start goes one cell further and finds what the ones before it left; the last is "Run all"."""
    parameters = {"PROFILE": str(NANO / "lfm2-nano"), "REQUESTS": str(NANO / "requests.jsonl")}
    cells = [cell.source for cell in with_parameters(parameters).cells if cell.cell_type == "code"]
    whole = start(tmp_path / "whole", cells)
    computed = [stage for end in range(1, len(cells) + 1) for stage in start(tmp_path / "restarted", cells[:end])]
    assert computed == whole and len(set(whole)) == len(whole) > 5
    assert results(tmp_path / "restarted" / "outputs") == results(tmp_path / "whole" / "outputs")
    for name in ("adapter.safetensors", "config.json"):
        one, other = (tmp_path / run / "outputs" / "asa_assets" / name for run in ("restarted", "whole"))
        assert one.read_bytes() == other.read_bytes()
    tried(len(cells) - 1, "restarts")
