"""docs/reliability.md lists what the tests show, each test that says so and no other."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def shown() -> dict[tuple[str, str], str]:
    """(file, test) -> what it shows, by its mark."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if ast.unparse(mark).startswith("pytest.mark.shows("):
                    found[path.relative_to(TESTS.parent).as_posix(), node.name] = ast.literal_eval(mark.args[0])
    return found


def test_every_test_that_shows_something_has_its_row():
    """And holds; what was counted is a number and what it counts."""
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \| \[(\w+)\]\(\.\./(.+)\) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert {(path, test): what for what, _, _, test, path in rows} == shown()
    assert {outcome for _, _, outcome, _, _ in rows} == {"holds"}
    assert all(tried == "once" or re.match(r"[\d,]+ \w", tried) for _, tried, _, _, _ in rows)
