"""The house: imports flow one way through the rooms, no module is long, and what only holds data needs no torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("support", "languages", "tools", "data", "models", "adapter", "engine", "method", "evaluation", "study", "app")
LONGEST = 250  # lines
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "asa").rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room of `asa.room.module`."""
    return module.split(".")[1]


def imports_of(path: Path) -> set[str]:
    """The package's modules that a file imports when it is loaded or when it runs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "asa":
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "asa"}
    return found


INSIDE = {name: path for name, path in MODULES.items() if name not in ("asa", "asa.__main__")}


@pytest.mark.parametrize("module", INSIDE)
def test_imports_flow_one_way(module):
    """From support to study; a room never looks into one that is built on it."""
    place = ROOMS.index(room_of(module))
    above = {name for name in imports_of(INSIDE[module]) if name != "asa" and ROOMS.index(room_of(name)) > place}
    assert not above, f"{module} imports {', '.join(sorted(above))}"


def test_there_is_no_circle():
    """Neither between modules of one room."""
    order = graphlib.TopologicalSorter({name: imports_of(path) for name, path in INSIDE.items()})
    assert list(order.static_order())


@pytest.mark.parametrize("path", [*MODULES.values(), ROOT / "create_notebook.py"], ids=str)
def test_no_module_is_long(path):
    assert len(path.read_text("utf-8").splitlines()) <= LONGEST


WITHOUT = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = staticmethod(lambda name, *more: None if name.split(".")[0] in {absent} else find(name, *more))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("import asa.tools, asa.support.files, asa.support.parameters, asa.support.hub", ("torch", "transformers")),
        (
            "import asa.data.requests, asa.data.splits, asa.data.examples, asa.models.profiles",
            ("torch", "transformers"),
        ),
        (
            "import asa.adapter; from asa import ASAAdapter",
            ("sklearn", "scipy", "datasets", "accelerate", "matplotlib", "jsonschema", "peft", "gguf", "nbformat"),
        ),
        (
            "import asa.__main__, asa.app.serving, asa.app.served_answers",
            ("sklearn", "scipy", "datasets", "accelerate", "matplotlib", "peft", "gguf", "nbformat", "vllm"),
        ),
    ],
)
def test_what_is_light_needs_no_more(line, absent):
    """In an environment that lacks the rest: tools and data need no torch, and using an adapter needs no training."""
    code = WITHOUT.format(absent=set(absent)) + line
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
