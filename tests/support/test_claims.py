"""Claims: a folder that one process works in is refused to another, and free again however that one ends."""

import subprocess
import sys
from pathlib import Path

import pytest

from asa.support import claims
from asa.support.claims import ClaimError, claim

ROOT = Path(__file__).parents[2]
HOLD = (
    "import sys; from asa.support.claims import claim; claim(sys.argv[1]); print('kept', flush=True); sys.stdin.read()"
)


@pytest.fixture
def other(tmp_path):
    """Another process that keeps `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "kept\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.shows(
    "An output folder in which another run works is refused in a sentence until that run has ended, if only by "
    "being killed"
)
def test_another_process_is_refused_until_the_first_is_gone(other, tmp_path):
    """Also by a killing, which leaves no chance to tidy up."""
    with pytest.raises(ClaimError, match=r"run is in use by another run: wait until that has ended, or choose another"):
        claim(tmp_path / "run")
    other.kill()
    other.communicate()
    claim(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_the_same_process_may_come_again(tmp_path):
    """As a cell that runs twice; a folder that was removed and made anew is kept anew."""
    claim(tmp_path / "run")
    claim(tmp_path / "run")
    (tmp_path / "run").rmdir()
    claim(tmp_path / "run")
    done = subprocess.run(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], cwd=ROOT, input="", capture_output=True, text=True
    )
    assert "ClaimError" in done.stderr


def test_what_cannot_be_locked_is_not_refused(tmp_path, monkeypatch):
    """A place that is no folder, a disk without locks, and a system without them."""
    (tmp_path / "file").write_text("")
    claim(tmp_path / "file")

    def no_locks(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(claims.fcntl, "flock", no_locks)
    claim(tmp_path / "run")
    monkeypatch.setattr(claims, "fcntl", None)
    claim(tmp_path / "run")
