"""The workflow and pre-commit hooks run what `.ci/run` runs, as read here, not run; and the quick loop is shared."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import pytest_cmdline_main

ROOT = Path(__file__).parents[1]


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text("utf-8"))


def test_the_workflow_runs_what_ci_runs():
    """On both ends of the Pythons that the project names, with the pinned torch's CPU build."""
    workflow = read(".github/workflows/ci.yml")
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML reads `on` as true
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in job["steps"] if "uses" in step)
    constraint = Path(job["env"]["PIP_CONSTRAINT"].replace("${{ github.workspace }}", str(ROOT)))
    (pinned,) = re.findall(r"^torch==\S+", (ROOT / "requirements.txt").read_text("utf-8"), re.M)
    assert constraint.read_text("utf-8").split()[0] == f"{pinned}+cpu"


def test_every_check_of_ci_is_a_hook():
    """What fails before the tests can be seen before a commit."""
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/")]
    checks = [command for command in commands if " -m pip " not in command and " -m pytest" not in command]
    (repository,) = read(".pre-commit-config.yaml")["repos"]
    hooks = [hook["entry"] for hook in repository["hooks"]]
    assert repository["repo"] == "local" and sorted(hooks) == sorted(checks) and len(checks) >= 5
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in repository["hooks"])


@pytest.mark.parametrize(
    ("mark", "capture", "shared"), [("not slow", "fd", True), ("not slow", "no", False), ("", "fd", False)]
)
def test_only_the_quick_loop_is_shared_among_cores(mark, capture, shared):
    """The slow tests use all cores themselves, and what is not captured would be lost."""
    option = SimpleNamespace(
        markexpr=mark, numprocesses=None, usepdb=False, trace=False, capture=capture, reliability=None
    )
    pytest_cmdline_main(SimpleNamespace(option=option, pluginmanager=SimpleNamespace(hasplugin=lambda name: True)))
    assert (option.numprocesses is not None) == shared
