"""The builder on toy packages, each rule and each refusal, and the committed notebook against its sources.

Nothing here runs the real notebook; that is `test_notebook.py`.
"""

import ast
import base64
import builtins
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import create_notebook as builder  # noqa: E402

PIPELINE = '''\
"""The toy."""

# %% [markdown] intro
# # Toy
#
# Text with `code`.

# %% parameters tags=parameters title=Set_it
SIZE = 3  # @param {type:"integer"}
NAME = "toy"

# %% arguments mode=script
import argparse
from asa.unused import nothing

# %% files mode=notebook data=data

# %% check
from asa.environment import check_environment

check_environment()

# %% load
from asa.engine import (
    run,
)

# %% run title=Run_it hide=true
import json
from pathlib import Path

from asa.engine import run
from asa.words import shout

result = json.dumps([run(SIZE), shout(NAME), Path("data/a.txt").name])
'''
ENVIRONMENT = '''\
"""The environment.

Checks it.
"""

import os
import sys


def check_environment():
    import json

    return os.name, sys.version, json
'''
ENGINE = '''\
"""The engine: it runs.

It does *not* stop.

- one
"""

import math
from collections import OrderedDict

import numpy as np

from asa.base import double
from asa.apart import one

__all__ = ["run"]

FACTOR = 2  # kept comment


def run(size):
    """Run."""
    # why
    return int(np.sum(np.ones(size))) * FACTOR + double(one()) + len(OrderedDict())


# %%
LIMIT = math.inf

if __name__ == "__main__":
    raise SystemExit("ran in the notebook")
'''
TOY = {
    "pipeline.py": PIPELINE,
    "asa/__init__.py": "raise RuntimeError\n",
    "asa/environment.py": ENVIRONMENT,
    "asa/engine.py": ENGINE,
    "asa/base.py": '"""Base."""\n\nimport math\n\n\ndef double(x):\n    return math.prod([2, x])\n',
    "asa/apart.py": '"""Apart."""\n\n\ndef one():\n    return 1\n',
    "asa/words.py": '"""Words."""\n\nimport numpy as np\n\nfrom asa.base import double\n\n\ndef shout(x):\n'
    "    return np.char.upper(x).item() * double(1)\n",
    "asa/unused.py": '"""Unused."""\n\nnothing = None\n',
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
    """Run the code cells one after the other in one namespace, in an empty folder and without the package."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT])
    for name in [name for name in sys.modules if name.split(".")[0] == "asa"]:
        monkeypatch.delitem(sys.modules, name)
    namespace = {"__name__": "__main__"}
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), namespace)
    return namespace


def test_order_of_cells(tmp_path):
    cells = build(write_toy(tmp_path))
    assert list(cells) == [
        "intro", "parameters", "files", "module-environment-text", "module-environment", "check",
        "module-apart-text", "module-apart", "module-base-text", "module-base", "imports",
        "module-engine-text", "module-engine", "module-engine-2", "module-words-text", "module-words", "run",
    ]  # fmt: skip


def test_same_bytes_again_and_under_another_hash_seed(tmp_path):
    write_toy(tmp_path)
    shutil.copy(ROOT / "create_notebook.py", tmp_path)
    contents = []
    for seed in "0", "1", "77":
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "create_notebook.py"], cwd=tmp_path, env=environment, check=True)
        contents.append((tmp_path / builder.NOTEBOOK).read_bytes())
    here = nbformat.writes(builder.build_notebook(tmp_path)) + "\n"
    assert {*contents, here.encode()} == {contents[0]}
    assert contents[0].endswith(b"\n}\n") and b"\r\n" not in contents[0]


def test_imports_are_hoisted_once(tmp_path):
    """What code above the Imports cell imports already (json and Path, math) is not imported again."""
    cells = build(write_toy(tmp_path))
    assert cells["imports"].source.split("\n", 1)[1] == ("from collections import OrderedDict\n\nimport numpy as np")
    for name in "module-engine", "module-words", "run":
        assert not re.search(r"^(import|from)", cells[name].source, re.M), name


def test_code_above_the_imports_cell_keeps_its_own(tmp_path):
    source = build(write_toy(tmp_path))["module-environment"].source
    assert "import math" in build(tmp_path)["module-base"].source
    assert source == "# asa/environment.py\nimport os\n" + ENVIRONMENT.split("import os\n")[1].rstrip()


def test_module_source_is_cut_and_otherwise_untouched(tmp_path):
    cells = build(write_toy(tmp_path))
    expected = ENGINE[ENGINE.index("FACTOR") : ENGINE.index("\n\n\n# %%")]
    assert cells["module-engine"].source == "# asa/engine.py\n" + expected
    assert cells["module-engine-2"].source == "# asa/engine.py\nLIMIT = math.inf"


def test_docstring_becomes_markdown(tmp_path):
    cell = build(write_toy(tmp_path))["module-engine-text"]
    assert cell.cell_type == "markdown"
    assert cell.source == "## The engine: it runs\n\nIt does *not* stop.\n\n- one"
    assert build(tmp_path)["module-base-text"].source == "## Base"


def test_markdown_cell(tmp_path):
    assert build(write_toy(tmp_path))["intro"].source == "# Toy\n\nText with `code`."


def test_script_cells_and_what_only_they_import_are_gone(tmp_path):
    text = nbformat.writes(builder.build_notebook(write_toy(tmp_path)))
    assert "argparse" not in text and "nothing" not in text and "from asa" not in text


def test_forms_and_tags(tmp_path):
    cells = build(write_toy(tmp_path))
    assert cells["parameters"].metadata == {"id": "parameters", "tags": ["parameters"]}
    assert cells["parameters"].source.startswith("# @title Set it\nSIZE = 3")
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}}
    assert cells["run"].metadata == {"id": "run"} | hidden
    assert cells["run"].source.startswith("# @title Run it\n")
    assert cells["files"].source.startswith("# @title Data files\n")
    assert cells["files"].metadata == {"id": "files"} | hidden


def test_metadata_ids_and_no_outputs(tmp_path):
    notebook = builder.build_notebook(write_toy(tmp_path))
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "accelerator": "GPU",
        "colab": {
            "gpuType": "T4", "name": "ASA_LFM25_Pipeline.ipynb", "private_outputs": True, "provenance": [],
            "toc_visible": True,
        },
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }  # fmt: skip
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.metadata.id == cell.id for cell in notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_notebook_runs_from_top_to_bottom_without_the_package(tmp_path, monkeypatch):
    cells = build(write_toy(tmp_path / "repo"))
    (tmp_path / "empty").mkdir()
    namespace = run_code(cells.values(), tmp_path / "empty", monkeypatch)
    assert json.loads(namespace["result"]) == [8, "TOYTOY", "a.txt"]


def test_data_cell_writes_what_is_missing_and_keeps_what_was_edited(tmp_path, monkeypatch, capsys):
    """A user's own tools, written over the notebook's, would otherwise be gone at the next Run all."""
    cell = build(write_toy(tmp_path / "repo"))["files"]
    assert max(map(len, cell.source.splitlines())) <= 110
    folder = tmp_path / "empty"
    folder.mkdir()
    for _ in "once", "again":
        run_code([cell], folder, monkeypatch)
        for name in "data/a.txt", "data/b.csv":
            assert (folder / name).read_bytes() == TOY[name].encode()
        assert capsys.readouterr().out == ""
    (folder / "data/a.txt").write_bytes(b"mine")
    (folder / "data/b.csv").unlink()
    run_code([cell], folder, monkeypatch)
    assert (folder / "data/a.txt").read_bytes() == b"mine"
    assert (folder / "data/b.csv").read_bytes() == TOY["data/b.csv"].encode()
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and str(Path("data/a.txt")) in said and "is kept" in said


def test_render_imports_merges_sorts_and_wraps():
    code = builder.parse_code(
        "import torch\nfrom b import low, Class, CONST\nimport json as j, os.path\nfrom b import other as o\n"
        f"from long import {', '.join('name' + letter * 20 for letter in 'abcdef')}\n",
        "x.py",
    )
    lines = builder.render_imports(code.imports).split("\n")
    assert lines[:6] == [
        "import json as j", "import os.path", "", "import torch", "from b import CONST, Class, low",
        "from b import other as o",
    ]  # fmt: skip
    assert lines[6:8] == ["from long import (", "    name" + "a" * 20 + ","] and lines[-1] == ")"


MODULE = '"""Base."""\n\n{}\n\n\ndef double(x):\n    return x\n'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("from __future__ import annotations", "__future__"),
        ("import asa.apart", "not inlined"),
        ("import asa", "not inlined"),
        ("from asa import apart", "not inlined"),
        ("from . import apart", "not inlined"),
        ("from .apart import one", "not inlined"),
        ("from asa.apart import one as two", "without `as`"),
        ("from asa.sub.apart import one", "not inlined"),
        ("from asa.__main__ import one", "not inlined"),
        ("from asa.apart import *", "import *"),
        ("from os.path import *", "import *"),
        ("if True: from asa.apart import one", "top level"),
        ("from asa.missing import one", "asa/missing.py"),
        ("HERE = __file__", "__file__"),
        ("import os; import sys", "two statements"),
        ("from asa.engine import run", "cycle"),
        ("def broken(:", "does not parse"),
        ("return 1", "does not parse"),
        ("def one(): pass", "asa/apart.py:"),
        ("one = 1", "`one`"),
        ("one: int = 1", "`one`"),
        ("class one: pass", "`one`"),
        ("for one in []: pass", "`one`"),
        ("import json as one", "`one`"),
        ("result = 1", "`result`"),
        ("import cmath as math", "`math`"),
        ("from json import loads as np", "`np`"),
        ("max = 1", "builtin"),
        ("# %% name", "# %%"),
    ],
)
def test_module_refusals(tmp_path, line, words):
    write_toy(tmp_path, asa__base=MODULE.format(line))
    with pytest.raises(builder.BuildError) as caught:
        builder.build_notebook(tmp_path)
    message = str(caught.value)
    places = {"cycle": r"asa/(base\.py:3|engine\.py:13)", "`result`": r"pipeline\.py:35",
              "`math`": r"asa/engine\.py:8", "`np`": r"asa/engine\.py:11"}  # fmt: skip
    assert re.match(places.get(words, r"asa/base\.py:3") + ": ", message), message
    assert words in message


@pytest.mark.parametrize("docstring", ["", '"""A title\ntorn."""\n', "# only a comment\n"])
def test_module_needs_a_docstring_with_a_title(tmp_path, docstring):
    write_toy(tmp_path, asa__base=docstring + "def double(x):\n    return x\n")
    with pytest.raises(builder.BuildError, match=r"^asa/base\.py:1: .*title"):
        builder.build_notebook(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("# %% check", "# %%", 18, "no cell id"),
        ("# %% check", "# %% che.ck", 18, "no cell id"),
        ("# %% check", "# %% " + "x" * 65, 18, "no cell id"),
        ("# %% check", "# %% module-x", 18, "no cell id"),
        ("# %% check", "# %% imports", 18, "no cell id"),
        ("# %% check", "# %% intro", 18, "earlier cell"),
        ("# %% check", "# %% check color=red", 18, "color=red"),
        ("# %% check", "# %% check mode=notebook", 18, "data="),
        ("# %% check", "# %% check hide=true", 18, "title="),
        ("data=data", "data=nowhere", 16, "nowhere/"),
        ("data=data\n", "data=data\nx = 1\n", 16, "empty"),
        ("tags=parameters ", "", 1, "0 cells"),
        ("# %% check", "# %% check tags=parameters", 18, "2 cells"),
        ("SIZE = 3", "SIZE = 2 + NAME", 9, "literal"),
        ("SIZE = 3", "SIZE = OTHER = 3", 9, "literal"),
        ("SIZE = 3", "SIZE = (\n    3\n)", 9, "literal"),
        ("SIZE = 3", "print(3)", 9, "literal"),
        ('NAME = "toy"', "import os", 10, "literal"),
        ("check_environment()\n", "check_environment(\n", 21, "does not parse"),
        ("# Text", "Text", 6, "code cell"),
        ('"""The toy."""', "import os", 1, "above all cells"),
        ("check_environment()\n", "import asa\n", 21, "not inlined"),
        ("check_environment()\n", "shout = 1\n", 21, "`shout`"),
        ("check_environment()\n", "Path(__file__)\n", 21, "__file__"),
    ],
)
def test_script_refusals(tmp_path, old, new, line, words):
    assert PIPELINE.count(old) >= 1
    write_toy(tmp_path, pipeline=PIPELINE.replace(old, new, 1))
    with pytest.raises(builder.BuildError) as caught:
        builder.build_notebook(tmp_path)
    message = str(caught.value)
    place = "asa/words.py:8" if words == "`shout`" else f"pipeline.py:{line}"
    assert message.startswith(place + ": ") and words in message, message


@pytest.mark.parametrize(
    ("statement", "names"),
    [
        ("x, (y, *z) = 1, [2]", "x y z"),
        ("x: int", "x"),
        ("x += y", "x"),
        ("x.y, x[0] = 1, 2", ""),
        ("del x", "x"),
        ("import a.b, c as d", "a d"),
        ("for x in y:\n    z = 1\nelse:\n    u = 2", "u x z"),
        ("with a as (x, y): z = 1", "x y z"),
        ("try:\n    x = 1\nexcept E as e:\n    y = 1", "e x y"),
        ("match a:\n    case [x, *y]: pass\n    case {'k': z, **u}: pass\n    case A(v) as w: pass", "u v w x y z"),
        ("def f(a, b=(x := 1), *, c: (y := 2) = 3) -> (z := 4):\n    d = 1", "f x y z"),
        ("@(x := deco)\nasync def f():\n    d = 1", "f x"),
        ("class A(x := B):\n    d = 1", "A x"),
        ("f = lambda a, b=(x := 1): (d := 2)", "f x"),
        ("x = [y for y in range(3)]", "x"),
        ("x = {y: z for y, z in {} if y}", "x"),
        ("x = {y for (y, *z) in [[u for u in v] for v in w]}", "x"),
        ("x = [(y := z) for z in u if any((w := v) for v in z)]", "w x y"),
        ("x = [(lambda: (d := 1)) for y in z]", "x"),
        pytest.param("type X[T] = list[T]", "X", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12")),
        pytest.param("def f[T](a: T): b = 1", "f", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="3.12")),
    ],
)
def test_bound_names(statement, names):
    """The same on every Python: what a comprehension or a definition keeps to itself is not among them."""
    assert sorted(builder.bound_names(ast.parse(statement).body[0])) == names.split()


def test_a_comprehensions_variable_may_mean_something_else_elsewhere(tmp_path):
    """From Python 3.12 on, `symtable` lists it outside; and a conditional annotation, from 3.14 on."""
    write_toy(tmp_path, asa__base=MODULE.format("SQUARES: list = [one * result for one in () for result in ()]"))
    assert "SQUARES" in build(tmp_path)["module-base"].source


def test_an_interactive_sessions_last_result_is_no_builtin(tmp_path, monkeypatch):
    """Doctests leave one behind; a throw-away name stays allowed."""
    monkeypatch.setattr(builtins, "_", 1, raising=False)
    assert "_, LAST" in build(write_toy(tmp_path, asa__base=MODULE.format("_, LAST = 1, 2")))["module-base"].source


def test_check_says_missing_stale_and_fine(tmp_path):
    write_toy(tmp_path)
    shutil.copy(ROOT / "create_notebook.py", tmp_path)

    def call(*arguments):
        command = [sys.executable, "create_notebook.py", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stderr

    stale = f"{builder.NOTEBOOK} is out of date or missing; run `python create_notebook.py`.\n"
    assert call("--check") == (1, stale)
    assert not (tmp_path / builder.NOTEBOOK).exists()
    assert call() == (0, "")
    assert call("--check") == (0, "")
    (tmp_path / "data/b.csv").write_text("changed")
    assert call("--check") == (1, stale)
    (tmp_path / "asa/base.py").write_text('"""Base."""\n\nfrom . import x\n')
    code, message = call()
    assert code == 1 and message.startswith("asa/base.py:3: ") and message.count("\n") == 1
    assert call("--chekc")[0] == 2
    said = subprocess.run(
        [sys.executable, "create_notebook.py", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert said.returncode == 0 and "tags=parameters" in said.stdout and "hides a" in said.stdout


def archive_of(content: bytes) -> bytes:
    """The packed data in a notebook's file."""
    return base64.b85decode(b"".join(re.findall(rb'^    "    \\"([^"\\]+)\\"\\n",\n', content, re.M)))


def with_archive(content: bytes, packed: bytes) -> bytes:
    """A notebook's file with other packed data, laid out as the builder does."""
    text = base64.b85encode(packed)
    rows = [b'    "    \\"%s\\"\\n",\n' % text[start : start + 94] for start in range(0, len(text), 94)]
    found = re.search(rb'(    "    \\"[^"\\]+\\"\\n",\n)+', content)
    return content[: found.start()] + b"".join(rows) + content[found.end() :]


def command(root: Path, *arguments: str) -> int:
    """The builder's command in this process; returns its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "__file__", str(root / "create_notebook.py"))
        return builder.main(list(arguments))


@pytest.mark.parametrize("level", [0, 1])
def test_how_zlib_packed_the_data_does_not_matter(tmp_path, level):
    """The notebook is fine, and writing leaves its bytes alone."""
    assert command(write_toy(tmp_path)) == 0
    notebook = tmp_path / builder.NOTEBOOK
    good = notebook.read_bytes()
    assert with_archive(good, archive_of(good)) == good
    other = with_archive(good, zlib.compress(zlib.decompress(archive_of(good)), level))
    assert other != good
    notebook.write_bytes(other)
    assert command(tmp_path, "--check") == command(tmp_path) == 0
    assert notebook.read_bytes() == other
    (tmp_path / "data/b.csv").write_bytes(TOY["data/b.csv"].replace("y", "z", 1).encode())
    assert command(tmp_path, "--check") == 1
    assert command(tmp_path) == command(tmp_path, "--check") == 0


def test_every_changed_character_is_seen(tmp_path):
    """In a cell, in the metadata, in the archive and around it, appended to it or cut from it."""
    assert command(write_toy(tmp_path)) == 0
    good = (tmp_path / builder.NOTEBOOK).read_bytes()
    meant = builder.unpacked(good)
    assert TOY["data/b.csv"].count("\n") * b"x,y\\n" in meant
    for place in range(len(good)):
        other = b"1" if good[place : place + 1] != b"1" else b"2"
        assert builder.unpacked(good[:place] + other + good[place + 1 :]) != meant, good[place - 20 : place + 20]
    *_, last = re.findall(rb'^    "    \\"[^"\\]+\\"\\n",\n', good, re.M)
    for changed in (
        b"",
        last * 2,
        last[:20] + last[21:],
        b" " + last,
        last[:20] + b'\\"\\n",\n    "    \\"' + last[20:],
    ):
        assert builder.unpacked(good.replace(last, changed)) != meant, changed
    for packed in (archive_of(good)[:-1], archive_of(good) + b"\0", archive_of(good) * 2):
        assert builder.unpacked(with_archive(good, packed)) != meant


def test_base85_of_another_spelling_is_seen():
    """Its last character may change no byte that is kept."""
    alphabet = base64.b85encode(bytes(range(256)) * 40)
    shell = b'    "DATA_ARCHIVE = (\\n",\n    "    \\"%s\\"\\n",\n'
    for text in (b"\0", b"\0\1", b"\0\1\2", b"\0\1\2\3"):  # whose packed lengths differ
        archive = base64.b85encode(zlib.compress(text))
        assert text in builder.unpacked(shell % archive)
        for last in set(alphabet) - {archive[-1]}:
            assert text not in builder.unpacked(shell % (archive[:-1] + bytes([last])))


# The committed notebook


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    """The notebook in the repository."""
    return nbformat.read(ROOT / builder.NOTEBOOK, as_version=4)


def test_committed_notebook_is_what_the_sources_give():
    assert command(ROOT, "--check") == 0


def test_committed_notebook_has_one_parameters_cell(committed):
    tagged = [cell for cell in committed.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


@pytest.mark.parametrize("banned", ["matplotlib.use(", "drive.mount", "login(", "/content", "from asa"])
def test_committed_notebook_has_nothing_that_blocks_or_breaks_run_all(committed, banned):
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if banned in cell.source] == []


def unguarded_input(source: str) -> list[int]:
    """Lines that call `input` outside an `if CHAT:` block."""

    def visit(node: ast.AST) -> list[int]:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "CHAT":
            return [line for child in node.orelse for line in visit(child)]
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "input"
        below = [line for child in ast.iter_child_nodes(node) for line in visit(child)]
        return [node.lineno, *below] if is_call else below

    return visit(ast.parse(source))


def test_committed_notebook_never_waits_for_input(committed):
    assert unguarded_input("if CHAT:\n    input()\nelse:\n    input()\nx = [input()]") == [4, 5]
    found = {cell.id: unguarded_input(cell.source) for cell in committed.cells if cell.cell_type == "code"}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_committed_badge_opens_this_notebook(committed):
    pattern = r"\(https://colab\.research\.google\.com/github/[^/)]+/[^/)]+/blob/main/([^)]+)\)"
    assert re.findall(pattern, committed.cells[0].source) == [builder.NOTEBOOK]
