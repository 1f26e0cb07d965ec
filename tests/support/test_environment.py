"""Environment: says what is missing, installs only that, and never torch or NumPy."""

import builtins
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from asa.support import environment
from asa.support.environment import NEEDED, NEVER_INSTALLED, SPINS, check_environment
from asa.support.files import UserError

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


@pytest.fixture
def installed(monkeypatch) -> dict[str, str]:
    """Installed packages and their versions, new enough; tests change them."""
    packages = {package: f"{oldest}.3" for package, oldest in NEEDED.items()}

    def version(package: str) -> str:
        if package not in packages:
            raise PackageNotFoundError(package)
        return packages[package]

    monkeypatch.setattr(environment, "version", version)
    monkeypatch.delattr(builtins, "get_ipython", raising=False)
    return packages


@pytest.fixture
def notebook(installed, monkeypatch) -> list[tuple[str, str]]:
    """A notebook whose `%pip install` works; gives the magics that were run."""
    magics = []

    class Shell:
        def run_line_magic(self, name, line):
            magics.append((name, line))
            for package in line.split()[1:]:
                installed[package] = NEEDED[package]

    monkeypatch.setattr(builtins, "get_ipython", lambda: Shell(), raising=False)
    return magics


def test_a_good_environment_is_printed_and_left_alone(notebook, installed, capsys):
    check_environment()
    said = capsys.readouterr().out
    assert said.startswith("Python 3.") and said.count("\n") == 1
    for package, has in installed.items():
        assert f"{package} {has}" in said
    assert notebook == []


def test_only_what_is_missing_is_installed(notebook, installed, capsys):
    del installed["gguf"], installed["jsonschema"]
    check_environment()
    assert [name for name, _ in notebook] == ["pip"]
    assert sorted(notebook[0][1].split()) == ["gguf", "install", "jsonschema"]
    assert f"gguf {NEEDED['gguf']}" in capsys.readouterr().out


def test_outside_a_notebook_the_command_is_named(installed):
    del installed["gguf"], installed["datasets"]
    installed["torch"] = "2.6.0"
    with pytest.raises(UserError, match=r"requirements\.txt") as caught:
        check_environment()
    states = [
        f"{package} is {has} and {NEEDED[package]} or newer is needed"
        for package, has in (("torch", "2.6.0"), ("datasets", "missing"), ("gguf", "missing"))
    ]
    assert str(caught.value) == ", ".join(states) + ": run pip install -r requirements.txt."


@pytest.mark.parametrize("package", NEVER_INSTALLED)
def test_torch_and_numpy_are_never_installed(notebook, installed, package):
    del installed[package], installed["gguf"]
    with pytest.raises(UserError, match=f"{package} is missing and {re.escape(NEEDED[package])} or newer is needed"):
        check_environment()
    assert all(package not in line.split() for _, line in notebook)


def test_an_installation_that_fails_is_one_sentence(installed, monkeypatch):
    """`%pip` only prints its error; without a network nothing is there afterwards."""

    class Offline:
        def run_line_magic(self, _name, _line):
            pass

    monkeypatch.setattr(builtins, "get_ipython", lambda: Offline(), raising=False)
    del installed["gguf"]
    with pytest.raises(UserError, match=r"gguf is missing and 0\.17 or newer is needed"):
        check_environment()


@pytest.mark.parametrize(
    ("package", "has"),
    [("transformers", "4.57.1"), ("transformers", "5.9.0"), ("numpy", "1.26.4"), ("torch", "2.9.1+cu128")],
)
def test_a_package_that_is_too_old_is_named_and_not_replaced(notebook, installed, package, has):
    """5.9 is older than 5.15: numbers are compared, not texts."""
    installed[package] = has
    words = (
        f'{package} is {has} and {NEEDED[package]} or newer is needed: run %pip install "{package}>={NEEDED[package]}"'
    )
    with pytest.raises(UserError, match=re.escape(words)):
        check_environment()
    assert notebook == []


@pytest.mark.parametrize("has", ["2.11.0+cpu", "2.11.0a0+ecf3bae", "2.11+local", "2.13.0", "3.0.0", "2.11"])
def test_a_new_enough_torch_passes_whatever_its_build(installed, has):
    installed["torch"] = has
    check_environment()


def test_the_requirements_file_holds_what_is_needed():
    """Outside a notebook the user is told to install it; it must mend what was found."""
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE))
    for package, oldest in NEEDED.items():
        assert package in pins
        assert [int(part) for part in pins[package].split(".")[:2]] >= [int(part) for part in oldest.split(".")]


def test_the_package_asks_for_what_is_checked():
    """pyproject.toml and the notebook's setup name the same packages and the same oldest versions."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    assert dict(line.split(">=") for line in project["dependencies"]) == NEEDED


SETUP = """
import os, sys
for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
    os.environ.pop(name, None)
os.environ.update({set!r})
from asa.support.environment import share_cores
share_cores()
print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, f"PASSIVE {SPINS} False"),
        ({"GOMP_SPINCOUNT": "9"}, "None 9 False"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE None False"),
    ],
)
def test_waiting_threads_give_their_core_away_unless_the_user_says_otherwise(given, found):
    """In time: torch reads it as it is loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP.format(set=given)], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.stdout.strip() == found, done.stderr


def test_nothing_loads_torch_before_threads_are_told():
    """The pipeline's setup comes first; the command line loads nothing until it knows what is wanted."""
    text = (Path(__file__).parents[2] / "pipeline.py").read_text("utf-8")
    before = text[: text.index("share_cores()")]
    imports = re.findall(r"^(?:from|import) (\S+)", before, re.M)
    assert set(imports) <= {"asa.support.files", "asa.support.environment"}
    code = "import sys, asa.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
