"""Processes: the pipeline on two of them gives what it gives on one, and each helper keeps its promise."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asa.support.environment import print_any_text
from asa.support.processes import dealt, from_first, gathered, progress, this_process

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL_BATCHES = """
import runpy
import asa.engine.engine
asa.engine.engine.BATCH_ROWS = 5  # so that even few requests make batches for both processes
runpy.run_path("pipeline.py", run_name="__main__")
"""
TALK = """
import sys
from pathlib import Path
from asa.support.files import write_atomic
from asa.support.processes import dealt, from_first, gathered, quiet_unless_first, this_process
here = this_process().process_index
shares = gathered([(here, item) for item in dealt([10, 11, 12, 13, 14])])
told = from_first("first" if here == 0 else "second")
sys.stderr.write(f"{here} {shares} {told}\\n")  # one write, so that the two do not mix
write_atomic(Path(__file__).parent / f"by-{here}", lambda scratch: scratch.write_text("whole"))
quiet_unless_first()
print("printed by", here)
"""
REFUSED = """
import sys
from pathlib import Path
from asa.support.checkpoints import Checkpoints
from asa.support.processes import gathered, this_process
out = Path(__file__).parent / "out"
if this_process().process_index == 0:
    out.write_text("a file where the folder should be")
kept = Checkpoints(out)
for name in ("one", "two"):
    sys.stderr.write(f"{gathered([kept.stage(name, 'k', lambda: {'a': name})['a']])} in all\\n")
kept.writer.finish()
sys.stderr.write(f"end of {this_process().process_index}\\n")
"""


def launch(count: int, *command: str) -> subprocess.CompletedProcess:
    """Start `command` in `count` processes the way `accelerate launch` does on several cards; gloo on a CPU."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(count)]
    return subprocess.run(
        [*(launcher if count > 1 else [sys.executable]), *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tiny_folder, small_requests, tmp_path_factory):
    """The pipeline on the tiny model, on one process and on two: (finished process, output folder) by count."""
    done = {}
    script = tmp_path_factory.mktemp("script") / "small_batches.py"
    script.write_text(SMALL_BATCHES)
    for count in (1, 2):
        out = tmp_path_factory.mktemp(f"processes-{count}")
        options = ("--profile", tiny_folder, "--requests", small_requests, "--out", out)
        done[count] = launch(count, script, *options), out
        assert done[count][0].returncode == 0, done[count][0].stderr[-3000:]
    return done


@pytest.mark.shows("Two processes that share a run's work give its results")
def test_two_processes_give_the_same_results(runs):
    """Every number is the same, not just close; times alone differ."""
    one, two = (json.loads((out / "results.json").read_text()) for _, out in runs.values())
    assert one.pop("stage_seconds").keys() == two.pop("stage_seconds").keys()
    assert one.pop("seconds") > 0 and two.pop("seconds") > 0
    assert one == two


def test_two_processes_leave_the_same_adapter_and_files(runs):
    (_, one), (_, two) = runs.values()
    files = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    assert files == {path.relative_to(two) for path in two.rglob("*") if path.is_file()}
    for name in ("adapter.safetensors", "config.json"):
        assert (one / "asa_assets" / name).read_bytes() == (two / "asa_assets" / name).read_bytes()


def test_only_the_first_process_prints(runs):
    (alone, _), (together, _) = runs.values()
    for line in ("prompts share", "gap between baseline and probe", "states-cal: took"):
        assert alone.stdout.count(line) == together.stdout.count(line) == 1


def test_processes_share_work_and_tell_each_other(tmp_path):
    """Items are dealt in turn, gathered in the order of the processes; the first one's word is taken, and it writes."""
    (tmp_path / "talk.py").write_text(TALK)
    done = launch(2, tmp_path / "talk.py")
    assert done.returncode == 0, done.stderr[-3000:]
    said = [line for line in done.stderr.splitlines() if "first" in line and "[(" in line]
    expected = [(0, 10), (0, 12), (0, 14), (1, 11), (1, 13)]
    assert sorted(said) == [f"{number} {expected} first" for number in (0, 1)]
    assert done.stdout.split("printed by")[1:] == [" 0\n"]
    assert [path.name for path in tmp_path.glob("by-*")] == ["by-0"]


@pytest.mark.shows("Where the one of several processes that writes cannot, all go on, and the end says so once")
def test_where_the_first_cannot_write_all_go_on_and_the_launcher_fails(tmp_path):
    """The first alone knows, at the end; the other waits for nothing."""
    (tmp_path / "refused.py").write_text(REFUSED)
    done = launch(2, tmp_path / "refused.py")
    assert done.returncode != 0
    for name in ("one", "two"):
        assert done.stderr.count(f"{[name, name]} in all") == 2
        assert done.stderr.count(f"{name}.npz could not be written (") == 1
    assert done.stderr.count("asa.support.files.UserError: not everything could be written") == 1
    assert "end of 1" in done.stderr and "end of 0" not in done.stderr


def test_one_process_has_all_the_work_and_talks_to_nobody():
    items = [3, 1, 2]
    assert dealt(items) == gathered(items) == list(progress(items)) == items
    assert from_first(items) is items and this_process().num_processes == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_what_a_terminal_cannot_print_is_escaped(encoding, monkeypatch):
    """Also half a character, as a file name may have; a notebook's stream is left as it is."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    print_any_text()
    print("서 \udcff", flush=True)
    assert terminal.buffer.getvalue().split() == [b"\\uc11c", b"\\udcff"]
