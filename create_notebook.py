"""Builds `ASA_LFM25_Pipeline.ipynb`, a notebook that needs no other file, from `pipeline.py`, `asa/` and `data/`.

    python create_notebook.py            write the notebook, unless it says the same already
    python create_notebook.py --check    exit 1 if the notebook is not what the sources give

`pipeline.py` tells the story in cells. `from asa.x import y` in a cell is an include directive: the source of
`asa/x.py`, after that of the modules it needs, becomes cells above that cell, once. A module's docstring becomes a
text cell; other top-level imports move to one Imports cell. Cells start with a marker line:

    # %% [markdown] intro                  Markdown, as comment lines
    # %% run title=Run_it hide=true        code: id, then options; title makes a Colab form, hide folds it
    # %% parameters tags=parameters        the one cell of literals, one a line
    # %% arguments mode=script             not in the notebook
    # %% files mode=notebook data=data     no code here; in the notebook it writes the files of `data/`
    # %%                                   in a module: a new cell starts here

Source is cut by line numbers and never rewritten, so comments and formatting survive. What changes meaning
once all modules share one namespace is refused, with file and line: a name that means two things or hides a
builtin, an import of another form, `__file__`, two statements on a line; and a parameter that is no one-line
literal. It runs and formats nothing.
"""

import ast
import base64
import builtins
import graphlib
import itertools
import json
import re
import sys
import zlib
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import v4

PACKAGE, SCRIPT, NOTEBOOK = "asa", "pipeline.py", "ASA_LFM25_Pipeline.ipynb"
WIDTH = 110
MARKER = re.compile(r"#\s?%%(.*)")
CELL_ID = re.compile(r"(?!imports$|module-)[a-zA-Z0-9-_]{1,64}")  # nbformat's rule, less the ids made here
OPTIONS = {"tags": "parameters", "mode": "script|notebook", "hide": "true", "title": ".+", "data": r"\w+"}
COLAB = {"gpuType": "T4", "name": NOTEBOOK, "private_outputs": True, "provenance": [], "toc_visible": True}
METADATA = {
    "accelerator": "GPU",
    "colab": COLAB,
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# the archive's lines in the notebook's file; base85 has no quote and no backslash
ARCHIVE = re.compile(rb'(?<="DATA_ARCHIVE = \(\\n",\n)(    "    \\".{94}\\"\\n",\n)*    "    \\".{1,94}\\"\\n",\n')
DATA_CELL = """\
import base64
import json
import zlib
from pathlib import Path

# The files of {folder}/, compressed; each is written where it is missing. One that was edited stays as it is.
DATA_ARCHIVE = (
{literal}
)
Path("{folder}").mkdir(exist_ok=True)
for data_name, data_text in json.loads(zlib.decompress(base64.b85decode(DATA_ARCHIVE))).items():
    data_file = Path("{folder}", data_name)
    if not data_file.exists():
        data_scratch = data_file.with_name(f".{{data_name}}")  # an interrupted run leaves no half of a file
        data_scratch.write_bytes(data_text.encode())
        data_scratch.replace(data_file)
    elif data_file.read_bytes() != data_text.encode():
        print(f"{{data_file}} differs from this notebook's and is kept; delete it to get the notebook's back.")
"""


class BuildError(Exception):
    """A source cannot become part of the notebook: `file:line: what is wrong and what to do`."""


def refuse(wrong: object, file: str, line: int, message: str) -> None:
    """Raise `BuildError` if something is wrong."""
    if wrong:
        raise BuildError(f"{file}:{line}: {message}")


# Reading: text -> Code, Cell


class Import(NamedTuple):
    """One imported name: `import module [as alias]` or `from module import name [as alias]`."""

    module: str
    name: str
    alias: str

    def statement(self) -> str:
        """The statement that imports it alone."""
        text = f"from {self.module} import {self.name}" if self.name else f"import {self.module}"
        return f"{text} as {self.alias}" if self.alias else text

    def is_stdlib(self) -> bool:
        """Whether it comes with Python."""
        return self.module.split(".")[0] in sys.stdlib_module_names


@dataclass
class Code:
    """The Python of a module or of one cell of the script. All line numbers are the file's."""

    file: str
    first: int
    text: str
    tree: ast.Module
    docstring: str = ""  # a module's
    needs: dict[str, int] = field(default_factory=dict)  # module of the package -> line of its import
    imports: list[Import] = field(default_factory=list)  # all others
    names: list[tuple[str, str, int]] = field(default_factory=list)  # top-level name, its meaning, line
    dropped: set[int] = field(default_factory=set)  # lines that the notebook never shows
    hoisted: set[int] = field(default_factory=set)  # lines of `imports`

    def sources(self, hoist: bool) -> list[str]:
        """The text without the lines to cut, split at `# %%`; parts without a statement are left out."""
        parts: list[tuple[int, list[str]]] = [(self.first, [])]
        after_cut = True  # so that a cut leaves no hole: the blank lines around it count once
        for number, line in enumerate(self.text.split("\n"), self.first):
            kept = parts[-1][1]
            if marker := MARKER.fullmatch(line):
                refuse(marker[1].strip(), self.file, number, "a module's cells have no id; write `# %%`")
                parts.append((number + 1, []))
            elif number in self.dropped or (hoist and number in self.hoisted):
                after_cut = True
            elif line.strip() or not after_cut or (kept and kept[-1].strip()):
                kept.append(line)
                after_cut = False
        sources = [(first, "\n".join(kept)) for first, kept in parts]
        return [source.strip("\n") for first, source in sources if parse(source, self.file, first).body]


@dataclass
class Cell:
    """A cell of the script, or a module in its place: Markdown `text`, or `code` under a `header`."""

    id: str
    line: int = 1
    options: dict[str, str] = field(default_factory=dict)
    text: str = ""
    code: Code | None = None
    header: str = ""


def parse_script(text: str) -> list[Cell]:
    """Split a percent script into cells, less `mode=script`; a docstring may stand above."""
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if MARKER.fullmatch(line)]
    starts.append(len(lines) + 1)
    for node in parse("\n".join(lines[: starts[0] - 1]), SCRIPT, 1).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        refuse(not docstring, SCRIPT, node.lineno, "code above all cells; put a `# %% id` line before it")
    cells: dict[str, Cell] = {}
    for start, end in itertools.pairwise(starts):
        cell = parse_cell(lines[start - 1 : end - 1], start)
        refuse(cell.id in cells, SCRIPT, start, f"an earlier cell has the id `{cell.id}`; choose another")
        cells[cell.id] = cell
    return [cell for cell in cells.values() if cell.options.get("mode") != "script"]


def parse_cell(lines: list[str], line: int) -> Cell:
    """One cell, from its marker, which is line `line` of the script, to its last line."""
    words = MARKER.fullmatch(lines[0])[1].split()
    markdown = words[:1] == ["[markdown]"]
    name, *pairs = words[markdown:] or [""]
    options = dict(pair.partition("=")[::2] for pair in pairs)
    valid = CELL_ID.fullmatch(name)
    refuse(not valid, SCRIPT, line, f"`{name}` is no cell id; write 1-64 letters, digits, `-`, `_`")
    for key, value in options.items():
        known = not markdown and key in OPTIONS and re.fullmatch(OPTIONS[key], value)
        refuse(not known, SCRIPT, line, f"unknown option `{key}={value}`; create_notebook.py lists them")
    mode = options.get("mode")
    title = options.get("title", "Data_files" if "data" in options else "").replace("_", " ")
    refuse((mode == "notebook") != ("data" in options), SCRIPT, line, "mode=notebook needs data=, and back")
    refuse("hide" in options and not title, SCRIPT, line, "a hidden cell shows its title only; add title=")
    body = lines[1:]
    if markdown:
        for number, text in enumerate(body, line + 1):
            refuse(text and text[0] != "#", SCRIPT, number, "no comment, no Markdown; start a code cell")
        return Cell(name, line, text="\n".join(re.sub("^# ?", "", text) for text in body).strip("\n"))
    if mode == "script":
        return Cell(name, line, options)
    code = parse_code("\n".join(body), SCRIPT, line + 1)
    return Cell(name, line, options, code=code, header=f"# @title {title}\n" if title else "")


def parse(text: str, file: str, first: int) -> ast.Module:
    """The syntax tree of a piece of a file that starts on line `first`."""
    try:
        tree = ast.parse("\n" * (first - 1) + text)
        compile(tree, file, "exec", dont_inherit=True)  # finds a lone `return` too
    except SyntaxError as error:
        refuse(True, file, error.lineno or first, f"this cell does not parse ({error.msg}); correct it")
    return tree


def parse_code(text: str, file: str, first: int = 1, is_module: bool = False) -> Code:
    """Find in Python source what to cut, what it imports and which names it binds.

    Args:
        text: The source.
        file: Its file, for messages.
        first: The line of the file on which it starts.
        is_module: Whether it is a module, whose docstring, `__all__` and main guard are cut as well.

    Raises:
        BuildError: If it would not work in a notebook.
    """
    code = Code(file, first, text, parse(text, file, first))
    if is_module:
        code.docstring = ast.get_docstring(code.tree) or ""
        titled = re.match(r".+(\n\n|$)", code.docstring)
        refuse(not titled, file, 1, "the docstring is the text; write a title line and a blank line")
    last_line = 0
    for node in code.tree.body:
        refuse(node.lineno == last_line, file, node.lineno, "two statements on a line; write two lines")
        last_line = node.end_lineno
        lines = range(node.lineno, node.end_lineno + 1)
        if is_module and (node is code.tree.body[0] or is_module_only(node)):  # the docstring comes first
            code.dropped.update(lines)
            continue
        for inner in ast.walk(node):
            if complaint := find_complaint(inner, top_level=inner is node):
                refuse(True, file, inner.lineno, complaint)
        if not isinstance(node, ast.Import | ast.ImportFrom):
            code.names += [(name, f"defined in {file}", node.lineno) for name in sorted(bound_names(node))]
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == PACKAGE:
            code.needs.setdefault(node.module.split(".")[1], node.lineno)
            code.dropped.update(lines)
        else:
            code.hoisted.update(lines)
            for alias in node.names:
                target = (node.module, alias.name) if isinstance(node, ast.ImportFrom) else (alias.name, "")
                item = Import(*target, alias.asname or "")
                code.imports.append(item)
                name = item.alias or item.name or item.module.split(".")[0]  # `import a.b` binds `a`
                meaning = item if item.alias or item.name else Import(name, "", "")
                code.names.append((name, f"`{meaning.statement()}`", node.lineno))
    return code


def bound_names(node: ast.AST) -> set[str]:
    """The names that running `node` binds in the scope around it; what `symtable` says depends on the Python."""
    names = {getattr(node, key, None) for key in ("name", "rest")}  # of a definition, an `except`, a pattern
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        names = {node.id}
    elif isinstance(node, ast.alias):
        names = {node.asname or node.name.split(".")[0]}
    own = {"type_params"}  # fields that are a scope of their own
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        own.add("body")
    elif isinstance(node, ast.comprehension):
        own.add("target")  # but what `:=` binds in a comprehension is bound around it
    parts = [part for key, part in ast.iter_fields(node) if key not in own]
    children = [child for part in parts for child in (part if isinstance(part, list) else [part])]
    found = [bound_names(child) for child in children if isinstance(child, ast.AST)]
    return {name for name in names if isinstance(name, str)}.union(*found)


def is_module_only(node: ast.stmt) -> bool:
    """Whether it is `__all__ = ...` or `if __name__ == "__main__"`, which a notebook would run."""
    if isinstance(node, ast.If):
        return any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets)


def find_complaint(node: ast.AST, top_level: bool) -> str:
    """Why a node works in a package but not in a notebook, or an empty string."""
    if isinstance(node, ast.Name) and node.id == "__file__":
        return "a notebook has no `__file__`; use a path relative to the working directory"
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return ""
    modules = [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        modules = ["." * node.level + (node.module or "")]
        if modules == ["__future__"]:
            return "`from __future__` would hold for all later cells; do without it"
        if node.names[0].name == "*":
            return "`import *` hides which names it binds; list them"
        plain = top_level and not any(alias.asname for alias in node.names)
        if plain and re.fullmatch(rf"{PACKAGE}\.(?!__)\w+", modules[0]):
            return ""
    if any(re.match(rf"\.|{PACKAGE}(\.|$)", module) for module in modules):
        return f"not inlined; write `from {PACKAGE}.module import name`, at top level and without `as`"
    return ""


# Writing: Code, Cell -> notebook


def module_order(name: str, root: Path, modules: dict[str, Code], asked_by: tuple[str, int]) -> list[str]:
    """A module and all that it needs, each after what it needs itself.

    Args:
        name: The module, without the package.
        root: The repository.
        modules: The modules read so far; grows.
        asked_by: File and line that import it, for messages.
    """
    graph: dict[str, list[str]] = {}
    queue = [(name, *asked_by)]
    for name, file, line in queue:  # grows while it is read
        path = root / PACKAGE / f"{name}.py"
        refuse(not path.is_file(), file, line, f"there is no {PACKAGE}/{name}.py; correct the import")
        if name not in modules:
            modules[name] = parse_code(path.read_text("utf-8"), f"{PACKAGE}/{name}.py", is_module=True)
        if name not in graph:
            graph[name] = list(modules[name].needs)
            queue += [(needed, modules[name].file, line) for needed, line in modules[name].needs.items()]
    sorter = graphlib.TopologicalSorter(graph)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = error.args[1]  # each is imported by the next
        code, path = modules[circle[1]], " <- ".join(circle)
        refuse(True, code.file, code.needs[circle[0]], f"import cycle {path}; move what they share")
    order: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())  # so that ties never reorder cells
        order += ready
        sorter.done(*ready)
    return order


def render_imports(imports: list[Import]) -> str:
    """Import statements as isort writes them."""
    members: dict[tuple[bool, bool, str, str, str], set[str]] = {}
    for item in imports:
        aliased = item.statement() if item.alias else ""
        key = (not item.is_stdlib(), bool(item.name), item.module.lower(), item.module, aliased)
        members.setdefault(key, set()).add(item.name)
    groups: tuple[list[str], list[str]] = ([], [])
    for (third_party, _, _, module, aliased), names in sorted(members.items()):
        # CONSTANTS, Classes, functions
        ordered = sorted(names, key=lambda name: (not name[1:].isupper(), name[:1].islower(), name))
        line = aliased or Import(module, ", ".join(ordered), "").statement()
        if len(line) > WIDTH:
            line = f"from {module} import (\n    " + ",\n    ".join(ordered) + ",\n)"
        groups[third_party].append(line)
    return "\n\n".join("\n".join(group) for group in groups if group)


def data_source(folder: Path) -> str:
    """Code that writes the text files of a folder, but not its README."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.suffix != ".md")
    files = json.dumps({path.name: path.read_bytes().decode() for path in paths})
    archive = base64.b85encode(zlib.compress(files.encode(), 9)).decode()
    literal = "\n".join(f'    "{archive[start : start + 94]}"' for start in range(0, len(archive), 94))
    return DATA_CELL.format(folder=folder.name, literal=literal)


def check_parameters(script: list[Cell]) -> None:
    """Refuse all but one parameters cell, and whatever papermill or a Colab form could not read in it."""
    found = [cell for cell in script if "tags" in cell.options]
    line = found[1].line if len(found) > 1 else 1
    refuse(len(found) != 1, SCRIPT, line, f"{len(found)} cells have tags=parameters; let exactly one have it")
    for node in found[0].code.tree.body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        try:
            ast.literal_eval(node.value)
            literal = [type(target) for target in targets] == [ast.Name] and node.lineno == node.end_lineno
        except (AttributeError, TypeError, ValueError):
            literal = False
        refuse(not literal, SCRIPT, node.lineno, "a parameter is one line `NAME = literal`; write it so")


def check_names(codes: list[Code]) -> None:
    """Refuse top-level names that mean two things once all code shares one namespace."""
    seen: dict[str, tuple[str, str]] = {}
    for code in codes:
        for name, meaning, line in code.names:
            old, place = seen.setdefault(name, (meaning, f"{code.file}:{line}"))
            clash = old != meaning
            refuse(clash, code.file, line, f"`{name}` means something else at {place}; rename one of them")
            hides = hasattr(builtins, name) and name[0] != "_"  # an interactive session keeps its last result in `_`
            refuse(hides, code.file, line, f"`{name}` would hide the builtin in all cells; rename it")


def plan_cells(root: Path) -> list[Cell]:
    """The script's cells in order, with modules and the Imports cell where they are first needed."""
    plan: list[Cell] = []
    modules: dict[str, Code] = {}
    script = parse_script((root / SCRIPT).read_text("utf-8"))
    for cell in script:
        if folder := cell.options.get("data"):
            wrong = cell.code.tree.body or not (root / folder).is_dir()
            refuse(wrong, SCRIPT, cell.line, f"the builder fills this cell from {folder}/; leave it empty")
            cell.code = parse_code(data_source(root / folder), SCRIPT, cell.line)
        for needed, line in cell.code.needs.items() if cell.code else ():
            for name in module_order(needed, root, modules, (SCRIPT, line)):
                if not any(other.id == f"module-{name}" for other in plan):
                    plan.append(Cell(f"module-{name}", code=modules[name], header=f"# {PACKAGE}/{name}.py\n"))
        plan.append(cell)
    check_parameters(script)
    check_names([cell.code for cell in plan if cell.code])
    for first, cell in enumerate(plan):
        if cell.code and not all(item.is_stdlib() for item in cell.code.imports):
            done = {item for earlier in plan[:first] if earlier.code for item in earlier.code.imports}
            items = [item for later in plan[first:] if later.code for item in later.code.imports]
            code = parse_code(render_imports([item for item in items if item not in done]), "imports")
            plan.insert(first, Cell("imports", code=code, header="# What the cells below import.\n"))
            break
    return plan


def build_notebook(root: Path) -> nbformat.NotebookNode:
    """The notebook that the sources below `root` give.

    Raises:
        BuildError: If a source cannot become part of it.
    """
    cells: list[nbformat.NotebookNode] = []
    hoist = False  # code above the Imports cell keeps its own: it may install what is imported there
    for cell in plan_cells(root):
        title, _, prose = cell.code.docstring.partition("\n") if cell.code else ("", "", "")
        text = f"## {title.removesuffix('.')}\n{prose}".strip() if title else cell.text
        if text:
            name = f"{cell.id}-text" if title else cell.id
            cells.append(v4.new_markdown_cell(text, id=name, metadata={"id": name}))
        for number, source in enumerate(cell.code.sources(hoist) if cell.code else [], 1):
            name = cell.id if number == 1 else f"{cell.id}-{number}"
            metadata = {"id": name}
            if "tags" in cell.options:
                metadata["tags"] = [cell.options["tags"]]
            if "hide" in cell.options or "data" in cell.options:
                metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
            cells.append(v4.new_code_cell(cell.header + source, id=name, metadata=metadata))
        hoist = hoist or cell.id == "imports"
    notebook = v4.new_notebook(cells=cells, metadata=METADATA, nbformat_minor=5)
    nbformat.validate(notebook)
    return notebook


def unpacked(content: bytes) -> bytes:
    """A notebook's file with its data archive unpacked: builds of zlib pack the same data into other bytes."""
    return ARCHIVE.sub(unpack, content)


def unpack(found: re.Match[bytes]) -> bytes:
    """What an archive's lines hold; the lines themselves where they are none that this builder writes."""
    archive = b"".join(re.findall(rb'\\"(.+)\\"', found[0]))
    unpacker = zlib.decompressobj()
    try:
        packed = base64.b85decode(archive)
        data = unpacker.decompress(packed)
    except (ValueError, zlib.error):
        return found[0]
    whole = unpacker.eof and not unpacker.unused_data and base64.b85encode(packed) == archive
    return data if whole else found[0]


def main(arguments: list[str]) -> int:
    """Write the notebook beside this file, or with `--check` compare it; returns the exit status."""
    path = Path(__file__).with_name(NOTEBOOK)
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the notebook is out of date")
    check = parser.parse_args(arguments).check
    try:
        content = (nbformat.writes(build_notebook(path.parent)) + "\n").encode()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    same = path.is_file() and unpacked(path.read_bytes()) == unpacked(content)
    if not check and not same:
        path.write_bytes(content)
    elif not same:
        print(f"{NOTEBOOK} is out of date or missing; run `python create_notebook.py`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
