"""The script, the notebook and the command line, run inside this process: what they print, write and end with.

One test each runs them as a user does, in a process of their own; the others need not pay for a new interpreter.
"""

import contextlib
import io
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "ASA_LFM25_Pipeline.ipynb"


@dataclass(frozen=True)
class Done:
    """What a program left: as of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def _as_a_process(folder: Path, *arguments: str):
    """Arguments, working folder, environment and hooks of this process, for the time of a `with`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(arguments))
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(plt, "show", lambda: None)
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # or the program sets it, for all that come after it
        patch.delenv("ASA_ALPACA", raising=False)
        patch.chdir(folder)
        yield
    plt.close("all")


def _run(program, *arguments: str) -> Done:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _as_a_process(ROOT, *arguments):
        try:
            program()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException as error:
            code = 1
            sys.excepthook(type(error), error, error.__traceback__)
    return Done(code, out.getvalue(), err.getvalue())


def run_script(*arguments: str | Path) -> Done:
    """`python pipeline.py` with `arguments`."""
    script = str(ROOT / "pipeline.py")
    return _run(lambda: runpy.run_path(script, run_name="__main__"), script, *map(str, arguments))


def run_command(*arguments: str | Path) -> Done:
    """`python -m asa` with `arguments`."""
    return _run(lambda: runpy.run_module("asa", run_name="__main__", alter_sys=False), "asa", *map(str, arguments))


def with_parameters(parameters: dict) -> nbformat.NotebookNode:
    """The committed notebook with `parameters` in a cell behind its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    injected = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(injected))
    return notebook


def run_cells(folder: Path, parameters: dict) -> str:
    """The notebook's code cells in `folder`, one after the other; what they print."""
    out, names = io.StringIO(), {"__name__": "__main__"}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), _as_a_process(folder, "cells"):
        for cell in with_parameters(parameters).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.get("id", "cell"), "exec"), names)
    return out.getvalue()


@contextlib.contextmanager
def own_disk(folder: Path, size: str) -> Iterator[Path]:
    """`folder` as a disk of its own, of `size` as `mount` takes it; without the right to mount, the test is skipped."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
