"""Builds `ASA_LFM25_Pipeline.ipynb`, a notebook that needs no other file, from `pipeline.py`, `asa/` and `data/`.

    python create_notebook.py            write the notebook
    python create_notebook.py --check    exit 1 if the notebook is not what the sources give

The story is `pipeline.py`, cell by cell and line by line. The package and the data come along in one folded cell that
writes them where they are missing. A cell starts with a marker line:

    # %% [markdown] intro                  Markdown, as comment lines
    # %% run title=Run_it hide=true        code: id, then options; title makes a Colab form, hide folds it
    # %% parameters tags=parameters        the one cell of literals, one a line
    # %% arguments mode=script             not in the notebook
    # %% files archive=asa,data            no code here; in the notebook it writes the files of these folders

In Markdown, a line `# [[asa/module.py: name]]` shows the lines of that module between `# [name]` and `# [/name]`, so
that what a reader sees cannot drift from what runs. It runs and formats nothing.
"""

import ast
import base64
import hashlib
import itertools
import json
import lzma
import re
import sys
import textwrap
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import v4

SCRIPT, NOTEBOOK = "pipeline.py", "ASA_LFM25_Pipeline.ipynb"
MARKER = re.compile(r"# %% (\[markdown\] )?([\w-]{1,64})((?: \w+=\S+)*)")
EXCERPT = re.compile(r"\[\[(\S+): (\w+)\]\]")
OPTIONS = {"tags": "parameters", "mode": "script", "hide": "true", "title": ".+", "archive": r"\w+(,\w+)*"}
METADATA = {
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "name": NOTEBOOK, "private_outputs": True, "provenance": [], "toc_visible": True},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
PACKED = re.compile(r'ARCHIVE = \\"([^\\"]*)\\"')  # as it stands in the notebook's JSON
ARCHIVE_CELL = """\
import base64
import hashlib
import json
import lzma
from pathlib import Path

# The package and the data, compressed. Files are written where they are missing; one that was edited stays as it is.
ARCHIVE = "{archive}"
archived = lzma.decompress(base64.b85decode(ARCHIVE))
if hashlib.sha256(archived).hexdigest() != "{digest}":
    raise ValueError("this notebook's archive was altered: download the notebook again.")
kept = []
for name, text in json.loads(archived).items():
    file = Path(name)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{{file.name}}")  # an interrupted run leaves no half of a file
        scratch.write_bytes(text.encode())
        scratch.replace(file)
    elif file.read_bytes() != text.encode():
        kept.append(name)
if kept:
    print(f"Kept as they are, though this notebook has others: {{', '.join(kept)}}. Delete them to get the notebook's.")
"""


class BuildError(Exception):
    """A source cannot become part of the notebook: `file:line: what is wrong and what to do`."""


def refuse(wrong: object, file: str, line: int, message: str) -> None:
    """Raise `BuildError` if something is wrong."""
    if wrong:
        raise BuildError(f"{file}:{line}: {message}")


@dataclass
class Cell:
    """A cell of the script: its id, the line of its marker, options, and its lines without blank ends."""

    id: str
    line: int
    markdown: bool = False
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""


def parse_script(text: str) -> list[Cell]:
    """The script's cells; a docstring may stand above the first.

    Raises:
        BuildError: A marker, an option or a cell's content is not as it should be.
    """
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if re.match(r"#\s?%%", line)]
    starts.append(len(lines) + 1)
    above = parse_python("\n".join(lines[: starts[0] - 1]), 1).body
    refuse(any(not isinstance(node, ast.Expr) for node in above), SCRIPT, 1, "code above all cells; add a marker")
    cells: dict[str, Cell] = {}
    for start, end in itertools.pairwise(starts):
        cell = parse_cell(lines[start - 1], lines[start : end - 1], start)
        refuse(cell.id in cells, SCRIPT, start, f"an earlier cell has the id `{cell.id}`; choose another")
        cells[cell.id] = cell
    check_parameters(list(cells.values()))
    return list(cells.values())


def parse_cell(marker: str, body: list[str], line: int) -> Cell:
    """One cell: its marker, on that line of the script, and the lines below."""
    found = MARKER.fullmatch(marker)
    refuse(not found, SCRIPT, line, f"`{marker}` is no cell's marker; write `# %% id option=value`")
    assert found
    options = {key: value for key, _, value in (pair.partition("=") for pair in found[3].split())}
    cell = Cell(found[2], line, bool(found[1]), options)
    for key, value in options.items():
        known = not cell.markdown and key in OPTIONS and re.fullmatch(OPTIONS[key], value)
        refuse(not known, SCRIPT, line, f"unknown option `{key}={value}`; create_notebook.py lists them")
    refuse("hide" in options and "title" not in options, SCRIPT, line, "a hidden cell shows its title only; add title=")
    if cell.markdown:
        for number, text in enumerate(body, line + 1):
            refuse(text and text[0] != "#", SCRIPT, number, "no comment, no Markdown; start a code cell")
        body = [re.sub("^# ?", "", text) for text in body]
    else:
        parse_python("\n".join(body), line + 1)
        refuse("archive" in options and any(body), SCRIPT, line, "the builder fills this cell; leave it empty")
    cell.text = "\n".join(body).strip("\n")
    return cell


def parse_python(text: str, first: int) -> ast.Module:
    """The syntax tree of a piece of the script that starts on line `first`."""
    try:
        tree = ast.parse("\n" * (first - 1) + text)
        compile(tree, SCRIPT, "exec", dont_inherit=True)  # finds a lone `return` too
    except SyntaxError as error:
        refuse(True, SCRIPT, error.lineno or first, f"this cell does not parse ({error.msg}); correct it")
    return tree


def check_parameters(cells: list[Cell]) -> None:
    """Refuse all but one parameters cell, and whatever papermill or a Colab form could not read in it."""
    found = [cell for cell in cells if "tags" in cell.options]
    line = found[1].line if len(found) > 1 else 1
    refuse(len(found) != 1, SCRIPT, line, f"{len(found)} cells have tags=parameters; let exactly one have it")
    for node in parse_python(found[0].text, found[0].line + 1).body:
        plain = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and node.lineno == node.end_lineno
        refuse(not plain, SCRIPT, node.lineno, "a parameter is one line `NAME = literal`; write it so")


def with_excerpts(cell: Cell, root: Path) -> str:
    """A Markdown cell's text, its excerpt lines replaced by the code they name."""
    lines = []
    for number, line in enumerate(cell.text.split("\n"), cell.line + 1):
        if found := EXCERPT.fullmatch(line.strip()):
            path = root / found[1]
            source = path.read_text("utf-8") if path.is_file() else ""
            part = re.search(rf"(?ms)^ *# \[{found[2]}\]\n(.*?)^ *# \[/{found[2]}\]$", source)
            refuse(not part, SCRIPT, number, f"there is no `{found[2]}` between markers in {found[1]}")
            assert part
            line = f"```python\n{textwrap.dedent(part[1]).rstrip()}\n```"
        lines.append(line)
    return "\n".join(lines)


def archived_files(root: Path, folders: list[str]) -> bytes:
    """The files of some folders, less their READMEs, as JSON: path -> text."""
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    paths = [path for path in paths if path.suffix not in (".md", ".pyc") and path.name[0] != "."]
    return json.dumps({path.relative_to(root).as_posix(): path.read_bytes().decode() for path in paths}).encode()


def archive_source(root: Path, folders: list[str]) -> str:
    """Code that writes the files of some folders."""
    content = archived_files(root, folders)
    archive = base64.b85encode(lzma.compress(content, preset=9)).decode()  # has no quote and no backslash
    return ARCHIVE_CELL.format(archive=archive, digest=hashlib.sha256(content).hexdigest()).strip()


def build_notebook(root: Path) -> nbformat.NotebookNode:
    """The notebook that the sources below `root` give.

    Raises:
        BuildError: A source cannot become part of it.
    """
    cells = []
    for cell in parse_script((root / SCRIPT).read_text("utf-8")):
        metadata: dict = {"id": cell.id}
        if cell.options.get("mode") == "script":
            continue
        if cell.markdown:
            cells.append(v4.new_markdown_cell(with_excerpts(cell, root), id=cell.id, metadata=metadata))
            continue
        title = cell.options.get("title", "").replace("_", " ")
        if "tags" in cell.options:
            metadata["tags"] = [cell.options["tags"]]
        if "hide" in cell.options:
            metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
        folders = cell.options.get("archive")
        text = archive_source(root, folders.split(",")) if folders else cell.text
        cells.append(v4.new_code_cell((f"# @title {title}\n" if title else "") + text, id=cell.id, metadata=metadata))
    notebook = v4.new_notebook(cells=cells, metadata=METADATA, nbformat_minor=5)
    nbformat.validate(notebook)
    return notebook


def unpacked(content: str) -> str:
    """A notebook file's text with its archive decoded: how well it was packed is not what it says."""

    def decoded(found: re.Match) -> str:
        try:
            return lzma.decompress(base64.b85decode(found[1])).decode()
        except (ValueError, lzma.LZMAError):
            return found[0]

    return PACKED.sub(decoded, content)


def main(arguments: list[str]) -> int:
    """Write the notebook beside this file, or with `--check` compare it; returns the exit status."""
    path = Path(__file__).with_name(NOTEBOOK)
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the notebook is out of date")
    check = parser.parse_args(arguments).check
    try:
        content = nbformat.writes(build_notebook(path.parent)) + "\n"
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    if path.is_file() and unpacked(path.read_bytes().decode(errors="replace")) == unpacked(content):
        return 0
    if not check:
        path.write_bytes(content.encode())
        return 0
    print(f"{NOTEBOOK} is out of date or missing; run `python create_notebook.py`.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
