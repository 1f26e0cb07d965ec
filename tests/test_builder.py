"""The builder on a toy repository, each rule and each refusal, and the committed notebook against its sources.

Nothing here runs the real notebook; that is `test_notebook.py`. Nothing here needs torch.
"""

import ast
import base64
import json
import lzma
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import create_notebook as builder

PIPELINE = '''\
"""The toy."""

# %% [markdown] intro
# # Toy
#
# Text with `code`, and how it doubles:
#
# [[toy/inner/base.py: double]]

# %% parameters tags=parameters title=Set_it
SIZE = 3  # @param {type:"integer"}
NAME = "toy"

# %% arguments mode=script
import argparse
import toy.nothing

# %% files title=Package_and_data hide=true archive=toy,data

# %% run
from pathlib import Path

from toy.inner.base import double  # kept comment


result = [double(SIZE), NAME, Path("data/a.txt").name]
'''
BASE = '''\
"""Base."""


class Doubler:
    """It doubles."""

    # [double]
    def __call__(self, x):
        return 2 * x  # twice
    # [/double]


double = Doubler()
'''
TOY = {
    "pipeline.py": PIPELINE,
    "toy/__init__.py": "",
    "toy/inner/__init__.py": "",
    "toy/inner/base.py": BASE,
    "toy/inner/README.md": "not for the notebook",
    "data/a.txt": "héllo \"'\\ {x}\r\n\u2028end",
    "data/b.csv": "x,y\n" * 500,
}


def write_toy(root: Path, **changes: str) -> Path:
    """Write the toy repository; `changes` maps names (`__` for `/`, no `.py`) to text."""
    files = TOY | {name.replace("__", "/") + ".py": text for name, text in changes.items()}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


def build(root: Path) -> dict[str, nbformat.NotebookNode]:
    """The cells of the notebook by id."""
    return {cell.id: cell for cell in builder.build_notebook(root).cells}


def run_code(cells, folder: Path, monkeypatch) -> dict:
    """Run the code cells one after the other in one namespace, in `folder`."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        monkeypatch.delitem(sys.modules, name)
    namespace = {"__name__": "__main__"}
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), namespace)
    return namespace


def test_cells_are_the_scripts_own(tmp_path):
    """In its order, with its text; a script's own cell is left out."""
    cells = build(write_toy(tmp_path))
    assert list(cells) == ["intro", "parameters", "files", "run"]
    assert cells["run"].source == PIPELINE.partition("# %% run\n")[2].strip("\n")
    assert cells["parameters"].source.splitlines()[0] == "# @title Set it"
    assert cells["parameters"].metadata["tags"] == ["parameters"]
    assert cells["files"].metadata["cellView"] == "form" and "cellView" not in cells["run"].metadata


def test_an_excerpt_is_the_modules_own_lines(tmp_path):
    """Dedented, in a fence, without the markers."""
    text = build(write_toy(tmp_path))["intro"].source
    assert text.startswith("# Toy\n\nText with `code`")
    assert text.endswith("```python\ndef __call__(self, x):\n    return 2 * x  # twice\n```")


def test_metadata_ids_and_no_outputs(tmp_path):
    notebook = builder.build_notebook(write_toy(tmp_path))
    assert notebook.metadata["accelerator"] == "GPU" and notebook.metadata["colab"]["gpuType"] == "T4"
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert all(cell.metadata["id"] == cell.id for cell in notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_the_notebook_runs_from_top_to_bottom_without_the_repository(tmp_path, monkeypatch):
    cells = build(write_toy(tmp_path / "repo"))
    assert run_code(cells.values(), tmp_path / "empty", monkeypatch)["result"] == [6, "toy", "a.txt"]


def test_files_that_are_missing_are_written_and_edited_ones_are_kept(tmp_path, monkeypatch, capsys):
    """A user's own tools, written over the notebook's, would otherwise be gone at the next Run all."""
    cell, folder = build(write_toy(tmp_path / "repo"))["files"], tmp_path / "empty"
    written = {name: text for name, text in TOY.items() if name != "pipeline.py" and not name.endswith(".md")}
    for _ in "once", "again":
        run_code([cell], folder, monkeypatch)
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert found == {name: text.encode() for name, text in written.items()}
        assert capsys.readouterr().out == ""
    (folder / "data/a.txt").write_bytes(b"mine")
    (folder / "data/b.csv").unlink()
    run_code([cell], folder, monkeypatch)
    assert (folder / "data/a.txt").read_bytes() == b"mine"
    assert (folder / "data/b.csv").read_bytes() == TOY["data/b.csv"].encode()
    said = capsys.readouterr().out
    assert (
        said.startswith("Kept as they are") and "data/a.txt" in said and "b.csv" not in said and said.count("\n") == 1
    )


@pytest.mark.shows("The notebook's archive is refused if it was altered, before a file is written")
def test_an_altered_archive_is_refused(tmp_path, monkeypatch):
    """Before a file is written; the archive is one line, since GitHub shows folded cells unfolded."""
    cell, folder = build(write_toy(tmp_path / "repo"))["files"], tmp_path / "empty"
    (line,) = [line for line in cell.source.splitlines() if line.startswith("ARCHIVE = ")]
    files = json.loads(lzma.decompress(base64.b85decode(line[len('ARCHIVE = "') : -1])))
    files["toy/inner/base.py"] += "\nprint('hello')\n"
    other = base64.b85encode(lzma.compress(json.dumps(files).encode())).decode()
    cell.source = cell.source.replace(line, f'ARCHIVE = "{other}"')
    with pytest.raises(ValueError, match="archive was altered"):
        run_code([cell], folder, monkeypatch)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("# %% run\n", "# %% files\n", 20, "an earlier cell has the id `files`"),
        ("# %% run\n", "# %%run\n", 20, "no cell's marker"),
        ("# %% run\n", "# %% run colour=red\n", 20, "unknown option `colour=red`"),
        ("# %% run\n", "# %% run hide=true\n", 20, "add title="),
        ("# %% run\n", "# %% run tags=parameters\n", 20, "2 cells have tags=parameters"),
        (" tags=parameters", "", 1, "0 cells have tags=parameters"),
        ("# Text with", "Text with", 6, "no comment, no Markdown"),
        ("[[toy/inner/base.py: double]]", "[[toy/inner/base.py: triple]]", 8, "there is no `triple`"),
        ("[[toy/inner/base.py: double]]", "[[toy/none.py: double]]", 8, "there is no `double`"),
        ("SIZE = 3 ", "SIZE = int(3) ", 11, "one line `NAME = literal`"),
        ('NAME = "toy"', 'NAME = ("toy"\n)', 12, "one line `NAME = literal`"),
        ("archive=toy,data\n", "archive=toy,data\nx = 1\n", 18, "leave it empty"),
        ("result = [", "result = [[", 26, "does not parse"),
        ("result = [", "return [", 26, "does not parse"),
        ('"""The toy."""', "import os", 1, "code above all cells"),
    ],
)
def test_refusals(tmp_path, old, new, line, words):
    """Each names the script's line and what to do."""
    assert PIPELINE.count(old) >= 1
    write_toy(tmp_path, pipeline=PIPELINE.replace(old, new, 1))
    with pytest.raises(builder.BuildError) as caught:
        builder.build_notebook(tmp_path)
    assert str(caught.value).startswith(f"pipeline.py:{line}: ") and words in str(caught.value), str(caught.value)


@pytest.fixture
def toy(tmp_path, monkeypatch, capsys):
    """The toy, and a function that calls the builder as if it lay there: (folder, call)."""
    folder = write_toy(tmp_path)
    monkeypatch.setattr(builder, "__file__", str(folder / "create_notebook.py"))

    def call(*arguments: str) -> tuple[int, str]:
        status = builder.main(list(arguments))
        return status, capsys.readouterr().err

    return folder, call


STALE = f"{builder.NOTEBOOK} is out of date or missing; run `python create_notebook.py`.\n"


def test_check_says_missing_stale_and_fine(toy):
    folder, call = toy
    assert call("--check") == (1, STALE) and not (folder / builder.NOTEBOOK).exists()
    assert call() == (0, "") and call("--check") == (0, "")
    first = (folder / builder.NOTEBOOK).read_bytes()
    for name in ("data/b.csv", "toy/inner/base.py"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole.replace(b"x", b"z", 1))
        assert call("--check") == (1, STALE)
        (folder / name).write_bytes(whole)
    assert call() == (0, "") and (folder / builder.NOTEBOOK).read_bytes() == first
    (folder / "pipeline.py").write_text("# %%bad\n")
    code, message = call()
    assert code == 1 and message.startswith("pipeline.py:1: ") and message.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        call("--chekc")
    assert ended.value.code == 2


@pytest.mark.slow
def test_the_script_in_a_process_of_its_own_ends_with_its_status(tmp_path):
    folder = write_toy(tmp_path)
    shutil.copy(ROOT / "create_notebook.py", folder)
    command = [sys.executable, "create_notebook.py"]
    said = [subprocess.run([*command, *more], cwd=folder, capture_output=True, text=True) for more in (["--check"], [])]
    assert [(done.returncode, done.stderr) for done in said] == [(1, STALE), (0, "")]
    assert (folder / builder.NOTEBOOK).is_file()


@pytest.mark.parametrize("change", ["SIZE = 3", '"gpuType": "T4"', "Text with"])
def test_check_sees_one_changed_character(toy, change):
    """In a code cell, in the metadata, in a text."""
    folder, call = toy
    call()
    path = folder / builder.NOTEBOOK
    text = path.read_text("utf-8")
    assert text.count(change) == 1
    path.write_text(text.replace(change, change[:-1] + "X"), "utf-8")
    assert call("--check") == (1, STALE)


def test_check_compares_what_the_archive_holds_not_how_it_was_packed(toy):
    """Another build of the compressor packs other bytes; nothing is written for that."""
    folder, call = toy
    call()
    path = folder / builder.NOTEBOOK
    text = path.read_text("utf-8")
    packed = builder.PACKED.search(text)[1]
    again = base64.b85encode(lzma.compress(lzma.decompress(base64.b85decode(packed)), preset=0)).decode()
    assert again != packed
    path.write_text(text.replace(packed, again), "utf-8")
    other = path.read_bytes()
    assert call("--check") == (0, "") and call() == (0, "") and path.read_bytes() == other


# The committed notebook


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    """The notebook in the repository."""
    return nbformat.read(ROOT / builder.NOTEBOOK, as_version=4)


def test_committed_notebook_is_what_the_sources_give():
    content = nbformat.writes(builder.build_notebook(ROOT)) + "\n"
    assert builder.unpacked((ROOT / builder.NOTEBOOK).read_text("utf-8")) == builder.unpacked(content)


def test_the_committed_archive_is_the_tree(committed):
    """Every module and every data file, and nothing else."""
    (packed,) = [cell.source for cell in committed.cells if "ARCHIVE = " in cell.source]
    files = json.loads(lzma.decompress(base64.b85decode(re.search(r'ARCHIVE = "([^"]*)"', packed)[1])))
    tree = [
        path for folder in ("asa", "data") for path in (ROOT / folder).rglob("*") if path.suffix not in (".md", ".pyc")
    ]
    assert files == {p.relative_to(ROOT).as_posix(): p.read_bytes().decode() for p in tree if p.is_file()}


def test_the_parameters_are_the_first_code(committed):
    first = next(cell for cell in committed.cells if cell.cell_type == "code")
    assert first.metadata["tags"] == ["parameters"]


def test_the_committed_notebook_is_short(committed):
    """What a reader sees: few cells, few lines of code, few words; what is folded does not count."""
    seen = [cell.source for cell in committed.cells if cell.cell_type == "code" and "cellView" not in cell.metadata]
    lines = [len(source.splitlines()) for source in seen]
    words = sum(len(cell.source.split()) for cell in committed.cells if cell.cell_type == "markdown")
    assert len(committed.cells) <= 40 and sum(lines) <= 350 and max(lines) <= 40 and words <= 1800


@pytest.mark.parametrize("banned", ["matplotlib.use(", "drive.mount", "login(", "/content"])
def test_committed_notebook_has_nothing_that_blocks_or_breaks_run_all(committed, banned):
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if banned in cell.source] == []


def test_committed_notebook_never_waits_for_its_user(committed):
    """Nothing asks for input, and the chat, where it is wanted, goes on beside the cells."""
    code = [ast.parse(cell.source) for cell in committed.cells if cell.cell_type == "code"]
    calls = [node for cell in code for node in ast.walk(cell) if isinstance(node, ast.Call)]
    assert not [call for call in calls if ast.unparse(call.func) == "input"]
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func) == "serve"] == [
        "serve(assistant, wait=False)"
    ]
    assert committed.cells[-1].source.startswith("if options.chat:\n")


def test_committed_badge_opens_this_notebook(committed):
    pattern = r"\(https://colab\.research\.google\.com/github/[^/)]+/[^/)]+/blob/main/([^)]+)\)"
    assert re.findall(pattern, committed.cells[0].source) == [builder.NOTEBOOK]
