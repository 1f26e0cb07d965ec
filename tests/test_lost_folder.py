"""A lost output folder: read-only, or removed while the pipeline runs. It costs a sentence, and no result."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import own_disk

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
NANO = ROOT / "tests" / "nano"
STAGES, RESULTS = 4, 18  # files that are in place by then: some stages; all of them, and some results
LOSING = """
import os, runpy, shutil, subprocess, sys
from asa.support.environment import share_cores
share_cores()
how, left, replace = sys.argv.pop(1), int(sys.argv.pop(1)), os.replace

def put(*names):
    global left
    left -= 1
    if not left and how == "removed":
        shutil.rmtree(sys.argv[-1])
    replace(*names)
    if not left and how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", os.path.dirname(sys.argv[-1])], check=True)

os.replace = put
sys.argv[0] = "pipeline.py"
runpy.run_path("pipeline.py", run_name="__main__")
"""


def run(out: Path, how: str = "", point: int = 0) -> subprocess.CompletedProcess:
    """The pipeline, which loses its output folder at its file number `point`; 0: never."""
    (out.parents[1] / "temporary").mkdir(exist_ok=True)
    given = ["--profile", NANO / "lfm2-nano", "--requests", NANO / "requests.jsonl", "--out", out]
    command = [sys.executable, "-W", "ignore", "-c", LOSING, how, str(point), *map(str, given)]
    environment = os.environ | {"TMPDIR": str(out.parents[1] / "temporary")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def files(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def disk(tmp_path):
    """A folder on a disk of its own."""
    with own_disk(tmp_path / "disk", "64m") as folder:
        yield folder


@pytest.mark.shows("A read-only output folder is refused in a sentence before any work")
def test_a_read_only_folder_is_refused(disk):
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = run(disk / "out")
    assert done.returncode == 1 and "profile" not in done.stdout and not list(disk.iterdir())
    assert done.stderr == (
        f"error: OUT: '{disk}/out' is no folder that can be written (Read-only file system): give another one.\n"
    )


@pytest.mark.shows(
    "A run whose output folder becomes read-only prints its numbers, leaves nothing half-written, saves elsewhere what "
    "was refused, and says so in a sentence; what is put back is reused"
)
def test_a_folder_that_becomes_read_only(disk):
    out = disk / "out"
    done = run(out, "read-only", STAGES)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "  ASA       " in done.stdout and "All stages" in done.stdout
    last = done.stderr.splitlines()[-1]
    missing, named, saved = re.search(
        r"missing: (.+) \(Read-only file system\): make (\S+) writable or give another output folder .+ run again; "
        rf"what could be saved of {out} lies in (\S+), and the stages that were written are reused\.$",
        last,
    ).groups()
    there, elsewhere = files(out), files(Path(saved))
    assert named.startswith(str(out)) and len(there) == STAGES and not there & elsewhere
    assert {"asa_assets/adapter.safetensors", "asa_assets/config.json", "results.json"} <= elsewhere
    assert set(re.findall(rf"{out}/([^\s,]+\.\w+)(?=, {out}|$)", missing)) <= elsewhere
    assert not [name for name in there | elsewhere if Path(name).name.startswith(".")]
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    shutil.copytree(saved, out, dirs_exist_ok=True)
    again = run(out)
    assert again.returncode == 0 and not re.search(": took", again.stdout)


@pytest.mark.shows(
    "An output folder that is removed during a run is there at its end with all that the run wrote, which is said"
)
def test_a_folder_that_is_removed(tmp_path):
    out = tmp_path / "disk" / "out"
    out.parent.mkdir()
    done = run(out, "removed", RESULTS)
    assert done.returncode == 0, done.stderr[-2000:]
    (said,) = [line for line in done.stderr.splitlines() if "had been" in line]
    assert said.endswith(" had been refused or removed during the run; written now.") and str(out) in said
    left = files(out)
    again = run(out)
    assert again.returncode == 0 and not re.search(": took", again.stdout) and files(out) == left
