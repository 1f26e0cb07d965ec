"""docs/reliability.md: what was tried, how often and what came of it, from the tests that try it.

    python -m pytest -m shows --reliability=docs/reliability.md

A test says what it shows by `@pytest.mark.shows("...")`, and how often it tried it by the fixture `tried`. The page is
written by such a run; another test says whether each of these tests has its row.
"""

import os
from pathlib import Path

import pytest

FUZZ_BYTES = int(os.environ.get("ASA_FUZZ_BYTES", "200_000"))  # how much damaged text is tried of each kind
SHOWN: pytest.StashKey[dict[str, str]] = pytest.StashKey()  # test -> what it shows
HEAD = """# Reliability

What was done to it, how often, and the test that does it. `python -m pytest -m shows --reliability=docs/reliability.md`
runs them all and writes this page; the counts are the tests' own, with `ASA_FUZZ_BYTES={}` for what is damaged at
random. What is trusted and what is not stands in [security.md](security.md).

| what | tried | outcome | test |
|---|---|---|---|
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that names the page."""
    parser.addoption("--reliability", metavar="FILE", help="write what the tests marked `shows` tried into FILE")


@pytest.fixture
def tried(record_property):
    """Say how often something was tried: `tried(20, "kills")`."""
    return lambda count, what: record_property("tried", f"{count:,} {what}")


def rows_of(items: list[pytest.Item]) -> dict[str, str]:
    """Test -> what it shows, in the order of the tests; the cases of a test are one."""
    found = {}
    for item in items:
        if mark := item.get_closest_marker("shows"):
            found[item.nodeid.partition("[")[0]] = mark.args[0]
    return found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember what each test shows."""
    config.stash[SHOWN] = rows_of(items)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Write the page."""
    if not (path := config.getoption("--reliability")):
        return
    counted: dict[str, list[str]] = {}
    outcomes: dict[str, set[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name = report.nodeid.partition("[")[0]
            outcomes.setdefault(name, set()).add(outcome)
            counted.setdefault(name, []).extend(
                value for key, value in getattr(report, "user_properties", ()) if key == "tried"
            )
    lines = []
    for name, what in config.stash[SHOWN].items():
        path_of, _, test = name.partition("::")
        often = "; ".join(dict.fromkeys(counted.get(name, []))) or "once"
        held = "holds" if outcomes.get(name) == {"passed"} else ", ".join(sorted(outcomes.get(name, {"not run"})))
        lines.append(f"| {what} | {often} | {held} | [{test}](../{path_of}) |\n")
    Path(path).write_text(HEAD.format(FUZZ_BYTES) + "".join(lines), encoding="utf-8")
