"""Files: a disk that refuses one ends no run, leaves no half of a file, and is told at the end."""

import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import fit_adapter
from matplotlib.figure import Figure
from programs import own_disk

from asa.adapter import ASAAdapter
from asa.evaluation.figures import save_figure
from asa.method.original_files import write_quickstart_files
from asa.support.checkpoints import Checkpoints
from asa.support.files import HOST, UserError, Writer, write_atomic, write_json, write_together

ROOT = Path(__file__).parents[2]
NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
REFUSED = ("tuning.npz", "hp_sweep.png", "adapter.safetensors", "probes.pkl", "report.md")
FULL_DISK = f"""
import errno, os, runpy
import asa.method.tuning
asa.method.tuning.DOSES, asa.method.tuning.BETAS = (0.2,), (0.5,)
put = os.replace

def replace(scratch, path):
    if os.path.basename(path) in {REFUSED}:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    put(scratch, path)

if os.environ.get("DISK") == "full":
    os.replace = replace
runpy.run_path("pipeline.py", run_name="__main__")
"""


def refusing(error: OSError):
    """Something that writes half of its file and fails."""

    def write(scratch: Path) -> None:
        scratch.write_text("half")
        raise error

    return write


def test_what_the_disk_refuses_is_said_and_remembered(tmp_path, capsys):
    """One sentence each; the others are written; one that goes well later is missing no more."""
    writer = Writer()
    for name in ("a", "b"):
        writer.write(tmp_path / name, lambda path: write_atomic(path, refusing(NO_SPACE)))
    writer.write(tmp_path / "c", lambda path: write_json(path, 1))
    assert capsys.readouterr().err.splitlines() == [
        f"{tmp_path}/{name} could not be written (No space left on device); the run goes on without it."
        for name in ("a", "b")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    writer.write(tmp_path / "a", lambda path: write_json(path, 1))
    assert writer.refused == {f"{tmp_path}/b": "No space left on device"}
    with pytest.raises(TypeError):  # a fault of the program is none of the disk
        writer.write(tmp_path / "d", lambda path: write_json(path, object()))


def test_the_end_says_what_is_missing_and_what_to_do(tmp_path):
    """Nothing where nothing is; else the files by what the disk said, how much is free, and that little is lost."""
    writer = Writer()
    writer.finish()
    for name in ("x/a", "x/b"):
        writer.write(tmp_path / name, lambda path: write_atomic(path, refusing(NO_SPACE)))
    writer.write(tmp_path / "c", lambda path: write_atomic(path, refusing(OSError("the cable is out"))))
    with pytest.raises(UserError) as error:
        writer.finish()
    assert re.fullmatch(
        rf"not everything could be written, missing: {tmp_path}/x/a, {tmp_path}/x/b \(No space left on device\); "
        rf"{tmp_path}/c \(the cable is out\): free some space on the disk of {tmp_path}/x, where [\d,]+\.\d MB are "
        r"free, and run again; the stages that were written are reused\.",
        str(error.value),
    )


def test_the_end_tries_again_and_then_elsewhere(tmp_path, monkeypatch):
    """What is still refused lies among the temporary files; when the end is asked for later, what has room by then."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full = tmp_path / "out"

    def write(text: str, path: Path) -> None:
        if full in Path(path).parents:
            raise NO_SPACE
        write_atomic(path, lambda scratch: scratch.write_text(text))

    writer = Writer()
    for name in ("out/a", "out/b/c"):
        writer.write(tmp_path / name, write, name)
    with pytest.raises(UserError) as error:
        writer.finish()
    (folder,) = tmp_path.glob("asa-*")
    assert f"; what could be saved of {tmp_path}/out lies in {folder}, and the stages that were" in str(error.value)
    assert {path: (folder / path).read_text() for path in ("a", "b/c")} == {"a": "out/a", "b/c": "out/b/c"}
    full = tmp_path / "another"
    writer.finish()
    assert (tmp_path / "out" / "b" / "c").read_text() == "out/b/c" and list(tmp_path.glob("asa-*")) == [folder]


def test_what_was_removed_meanwhile_is_written_again(tmp_path, capsys):
    """With all others, also those whose name stands for several files; only what is known to be gone is named."""
    writer, written = Writer(), []
    writer.write(tmp_path / "out" / "a", lambda path: (written.append("a"), write_json(path, 1)))
    writer.write(tmp_path / "out" / "b and c", lambda path: written.append("b and c"))
    shutil.rmtree(tmp_path / "out")
    writer.finish()
    assert written == ["a", "b and c"] * 2
    assert capsys.readouterr().err == f"{tmp_path}/out/a had been refused or removed during the run; written now.\n"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_the_remedy_is_that_of_the_refusal(tmp_path, code):
    writer = Writer()
    writer.write(tmp_path / "gone" / "a", lambda _: refusing(OSError(code, os.strerror(code)))(tmp_path / "scratch"))
    remedy = "free some space on the disk of" if code == errno.EDQUOT else "writable or give another output folder"
    with pytest.raises(UserError, match=remedy) as error:
        writer.finish()
    assert f"{tmp_path}/gone/a ({os.strerror(code)}): " in str(error.value)
    assert f"{tmp_path}/gone " not in str(error.value)  # it does not exist; the folder above it does


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    new = {tmp_path / "a": lambda scratch: scratch.write_text("new"), tmp_path / "b": refusing(NO_SPACE)}
    with pytest.raises(OSError, match="No space left"):
        write_together(new)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}
    write_together(new | {tmp_path / "b": lambda scratch: scratch.write_text("new")})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


@pytest.mark.shows("What killed processes had half written is removed later, and what living ones are writing is not")
def test_what_killed_processes_left_is_removed(tmp_path):
    """But not what a living one, or one of another machine, is writing; nor what only looks like it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = [f".{gone.pid}.{HOST}-a", f".{os.getppid()}.{HOST}-a", f".{gone.pid}.elsewhere-a", f".².{HOST}-a", ".b-a"]
    for name in names:
        (tmp_path / name).write_text("half")
    write_atomic(tmp_path / "a", lambda scratch: scratch.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[1:], "a"])


def test_a_stage_that_cannot_be_kept_gives_its_result(tmp_path, monkeypatch, capsys):
    """The same kinds of values as one that is kept; the next run computes it again and keeps it."""
    states, runs = np.arange(6.0).reshape(2, 3), []

    def compute():
        runs.append(1)
        return {"states": states, "pair": (1, 2)}

    def half(file, **_):
        file.write(b"half")
        raise NO_SPACE

    kept = Checkpoints(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("asa.support.checkpoints.np.savez", half)
        found = kept.stage("states", "k", compute)
    assert found["states"] is states and found["pair"] == [1, 2]
    assert "states.npz could not be written (No space left on device)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and list(kept.writer.refused) == [f"{tmp_path}/states.npz"]
    Checkpoints(tmp_path).stage("states", "k", compute)
    Checkpoints(tmp_path).stage("states", "k", compute)
    assert len(runs) == 2


@pytest.mark.parametrize("place", ["a file", "vanished"])
def test_a_folder_that_is_none_keeps_no_stage_and_ends_nothing(tmp_path, place):
    """A folder that vanished is made again; what is no folder is named."""
    kept = Checkpoints(tmp_path / "out" / "checkpoints")
    if place == "a file":
        (tmp_path / "out").write_text("in the way")
    for name in ("one", "two"):
        assert kept.stage(name, "k", lambda: {"a": 1}) == {"a": 1}
        if place == "vanished":
            assert kept.writer.refused == {}
            (tmp_path / "out" / "checkpoints" / f"{name}.npz").unlink()
            (tmp_path / "out" / "checkpoints").rmdir()
    if place == "a file":
        assert len(kept.writer.refused) == 2
        with pytest.raises(UserError, match=f"make {tmp_path}"):
            kept.writer.finish()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KB."""
    with own_disk(tmp_path / "disk", "256k") as folder:
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 1, 5, 12])  # KB: some fail as they begin, some in the middle
@pytest.mark.shows("A full disk costs a sentence, and nothing is half-written")
def test_on_a_full_disk_nothing_is_half_written(small_disk, tiny_lfm2, prompts, room):
    """Stage, figure, adapter and quick-start files, each by its own library; old files stay whole."""
    fitted = fit_adapter(tiny_lfm2, prompts)
    figure, states = Figure(), np.random.default_rng(0).random((40, 1000))
    figure.subplots().imshow(states)
    fitted.adapter.save(small_disk / "assets")
    write_quickstart_files(small_disk / "assets", fitted.readers, fitted.vectors)
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    with (small_disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1024))
    os.truncate(small_disk / "ballast", max(0, (small_disk / "ballast").stat().st_size - 1024 * room))
    writer, kept = Writer(), Checkpoints(small_disk / "checkpoints")
    fitted.adapter.config |= {"note": "x" * 20_000}
    fitted.vectors = np.tile(fitted.vectors, 100)
    assert kept.stage("states", "k", lambda: {"states": states})["states"] is states
    for name, write in (
        ("f.png", lambda path: save_figure(figure, path)),
        ("assets", fitted.adapter.save),
        ("quick", lambda _: write_quickstart_files(small_disk / "assets", fitted.readers, fitted.vectors)),
        ("r.json", lambda path: write_json(path, ["x"] * 20_000)),
    ):
        writer.write(small_disk / name, write)
    assert set(writer.refused.values()) == {"No space left on device"} and len(writer.refused) == 4
    assert kept.writer.refused == {f"{small_disk}/checkpoints/states.npz": "No space left on device"}
    (small_disk / "ballast").unlink()
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before
    assert ASAAdapter.from_pretrained(small_disk / "assets").domains == fitted.readers.domains
    assert (
        pickle.loads((small_disk / "assets" / "scaler.pkl").read_bytes()).mean_.shape
        == fitted.readers.scaler.mean_.shape
    )


@pytest.fixture(scope="module")
def runs(tiny_folder, small_requests, tmp_path_factory):
    """The pipeline on a disk that is full for some files, then on one with room: (folder, first run, second run)."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "run.py").write_text(FULL_DISK)
    command = [folder / "run.py", "--profile", tiny_folder, "--requests", small_requests, "--out", folder / "out"]
    both = [
        subprocess.run(
            [sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), "DISK": disk},
        )
        for disk in ("full", "empty")
    ]  # fmt: skip
    return folder / "out", *both


@pytest.mark.slow
@pytest.mark.shows("A run on a full disk goes on and names what it could not write")
def test_a_full_disk_at_the_tuning_stage_costs_the_file_alone(runs):
    """The run goes on to the demo and ends with status 1 and one sentence; each missing file has one before."""
    out, done, _ = runs
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tuning: took" in done.stdout and "[TOOL]" in done.stdout
    assert done.stdout.index("All stages") < done.stdout.index("  ASA       ")
    said = re.findall(r"^(\S+)(?:, .+| and .+)? could not be written \(No space left on device\); ", done.stderr, re.M)
    assert [Path(path).name for path in said] == [
        "tuning.npz", "hp_sweep.png", "adapter.safetensors", "steering_vectors.npz", "report.md",
    ]  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: not everything could be written, missing: {out}/checkpoints/tuning.npz, ")
    assert all(path in last for path in said)
    assert re.search(r"free some space on the disk of \S+/checkpoints, where [\d,.]+ MB are free, and run again", last)


@pytest.mark.slow
@pytest.mark.shows("A run after a full disk computes again only the stage whose file was refused")
def test_a_second_run_reuses_what_was_written_and_makes_the_rest(runs):
    out, first, second = runs
    assert second.returncode == 0, second.stderr[-2000:]
    took = re.findall(r"^(\S+): took", second.stdout, re.M)
    assert took == ["tuning"] and "tuning: took" in first.stdout
    files = {path.name for path in out.rglob("*") if path.is_file()}
    assert files >= {*REFUSED, "results.json", "config.json", "errors.md"}
    assert not [name for name in files if name.startswith(".")]
    assert json.loads((out / "results.json").read_text())["benchmark"]["n_test"] == 32
