"""Checks: what is wrong with labelled requests is found, and what is right is left alone."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from asa.data.checks import MOST_WORDS, Finding, check_requests
from asa.data.requests import Request, load_requests

ROOT = Path(__file__).parents[2]
OWN = load_requests(ROOT / "data" / "held_out.jsonl")


def kinds(found: list[Finding]) -> set[str]:
    return {finding.kind for finding in found}


def worded(seed: int, label: int, more: str = "") -> Request:
    """Ten random words of two hundred."""
    words = random.Random(seed).choices([f"word{number}" for number in range(200)], k=10)
    return Request(" ".join([*words, more]), label, "math", f"file:{seed}")


def test_good_requests_have_nothing_to_mend():
    assert check_requests(OWN) == []


def test_too_few_is_said_by_domain_and_label():
    """Below six a fit refuses, which comes first; below thirty the numbers are rough."""
    given = [worded(seed, int(seed >= 40)) for seed in range(52)] + [replace(worded(99, 1), domain="code")]
    found = [finding for finding in check_requests(given) if "few" in finding.kind]
    assert [(finding.kind, finding.says.split(" requests ")[0]) for finding in found] == [
        ("too few", "code: 1"), ("too few", "code: 0"), ("few", "math: 12"),
    ]  # fmt: skip


def test_what_says_the_same_is_named_by_row():
    """With two labels one of them is wrong, which comes first."""
    given = [*OWN, replace(OWN[3], source="a:1"), replace(OWN[8], label=1 - OWN[8].label, source="a:2")]
    first, second = check_requests(given)
    assert (first.kind, first.rows) == ("contradiction", (OWN[8].source, "a:2")) and "a:2" in first.says
    assert (second.kind, second.rows) == ("duplicates", (OWN[3].source, "a:1"))


def test_a_word_that_gives_the_label_away_is_named():
    """One that is usual in both labels, or rare, is not; without spaces it is a character or two."""
    given = [worded(seed, seed % 2, "please now" if seed % 2 else "now") for seed in range(120)]
    found = check_requests(given)
    assert kinds(found) == {"words tell", "one-sided word"} and "100 %" in found[0].says
    (word,) = [finding for finding in found if finding.kind == "one-sided word"]
    assert "'please' is in 60 requests that need a tool and in 0 that need none" in word.says
    assert check_requests([worded(seed, seed % 2) for seed in range(120)]) == []
    pairs = [[f"{'yn'[seed % 2]}{seed // 2 % 20}", f"{'yn'[seed % 2]}{seed // 40}z"] for seed in range(960)]
    many = [worded(seed, seed % 2, " ".join(pair)) for seed, pair in enumerate(pairs)]
    assert len([finding for finding in check_requests(many) if finding.kind == "one-sided word"]) == MOST_WORDS
    alike = check_requests([worded(0, seed % 2, "please" if seed % 2 else "") for seed in range(40)])
    assert "words tell" not in kinds(alike)  # one group, which no fold can divide


@pytest.mark.parametrize("given", [[], OWN[:1], [request for request in OWN if request.label]])
def test_any_requests_can_be_checked(given):
    """Also none, one, or those of one label."""
    assert kinds(check_requests(given)) <= {"too few", "few"}


def test_a_label_of_one_wording_is_checked():
    """Whatever fold it is tested in, the others have nothing to learn it from."""
    alike = [Request(f"Please calculate for me the sum of {number}", 1, "math", f"f:{number}") for number in range(5)]
    found = check_requests([*alike, *(worded(seed, 0) for seed in range(20))])
    assert {"duplicates", "too few"} & kinds(found) and "words tell" not in kinds(found)
