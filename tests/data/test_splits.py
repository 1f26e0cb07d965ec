"""Splits: balanced, drawn by a seed, near-duplicates on one side; the project's own data splits as it should."""

import re
from collections import Counter

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from test_duplicates import PLACES
from test_requests import ALPACA, DATA, DOMAINS, own_cache  # noqa: F401

from asa.data.duplicates import apart_from, near_duplicate_groups
from asa.data.requests import Request, RequestsError, load_alpaca, load_requests
from asa.data.splits import requests_key, spare_requests, split_requests
from asa.tools.definitions import load_tools

SHARES = {"cal": 1, "train": 1, "valid": 1, "test": 2}


def make_requests(count: int, domains=("math", "code"), **more: int) -> list[Request]:
    """`count` different requests a domain and label; `more` adds some to a cell, e.g. math1=3."""
    return [
        Request(f"{domain}{label}n{i}", label, domain, f"{domain}{label}:{i}")
        for domain in domains
        for label in (0, 1)
        for i in range(count + more.get(f"{domain}{label}", 0))
    ]


def assert_shares(splits, unit: int, domains) -> None:
    """Every split holds `unit` times its share of every domain and label."""
    assert list(splits) == list(SHARES)
    for name, rows in splits.items():
        cells = Counter((request.domain, request.label) for request in rows)
        assert cells == {(domain, label): unit * SHARES[name] for domain in domains for label in (0, 1)}


@pytest.mark.parametrize(("count", "unit"), [(5, 1), (9, 1), (10, 2), (13, 2), (200, 40), (207, 40)])
def test_splits_are_balanced_in_shares_of_one_one_one_two(count, unit):
    requests = make_requests(count)
    splits = split_requests(requests, seed=0)
    assert_shares(splits, unit, ("math", "code"))
    sources = [request.source for rows in splits.values() for request in rows]
    assert len(set(sources)) == len(sources)
    assert set(sources) <= {request.source for request in requests}


def test_the_smallest_cell_sets_the_size():
    assert_shares(split_requests(make_requests(10, math1=40, code0=3), seed=0), 2, ("math", "code"))


def test_a_seed_gives_one_split_and_another_seed_another():
    requests = make_requests(20)
    first, again, other = (split_requests(requests, seed) for seed in (3, 3, 4))
    assert first == again
    assert requests_key(first) == requests_key(again) != requests_key(other)
    assert {r.source for r in first["test"]} != {r.source for r in other["test"]}


def test_a_split_is_mixed():
    """Not the file's first rows: they may come from one source or one hand."""
    test = split_requests(make_requests(50), seed=0)["test"]
    numbers = [int(request.source.split(":")[1]) for request in test]
    assert min(numbers) < 15 and max(numbers) >= 35


FILLER = "please tell me now what the final answer to this would be thanks"  # 13 words


def test_near_duplicates_share_a_side():
    """Pairs and chains, also across labels and domains; in any of ten shuffles."""
    alike = []
    for group in range(6):
        words = " ".join(f"w{group}x{i}" for i in range(10))
        alike.append(
            [
                Request(f"{words} one", 1, "math", f"g{group}a"),
                Request(f"{words} TWO!", 0, "math", f"g{group}b"),
                Request(f"{words} three", 1, "code", f"g{group}c"),
            ]
        )
    requests = make_requests(20) + [request for group in alike for request in group]
    for seed in range(10):
        splits = split_requests(requests, seed)
        side = {request.source: name for name, rows in splits.items() for request in rows}
        for group in alike:
            assert len({side.get(request.source) for request in group}) == 1
        assert any(group[0].source in side for group in alike)
        assert_shares(splits, 4, ("math", "code"))


@pytest.mark.parametrize("seed", range(3))
def test_requests_without_spaces_share_a_side(seed):
    given = make_requests(10, ["math"]) + [
        Request(frame.format(place), place == places[0], "math", language)
        for language, (frame, places) in PLACES.items()
        for place in places
    ]
    splits = split_requests(given, seed)
    sides = {(request.source, name) for name, rows in splits.items() for request in rows if request.source in PLACES}
    assert sides and len(sides) == len({source for source, _ in sides})


def test_near_duplicates_that_leave_a_split_empty_are_reported():
    alike = [Request(f"{FILLER} {i}", 1, "math", f"alike:{i}") for i in range(5)]
    requests = [r for r in make_requests(5) if (r.domain, r.label) != ("math", 1)] + alike
    with pytest.raises(RequestsError, match=r"near-duplicates leave splits unfilled.*math.*different requests"):
        split_requests(requests, seed=0)


def test_a_domain_without_a_label_is_refused():
    requests = make_requests(10) + [Request(f"s{i}", 1, "search", f"s:{i}") for i in range(10)]
    with pytest.raises(RequestsError, match="'search' has 0 requests with label 0"):
        split_requests(requests, seed=0)
    few = [r for r in make_requests(10) if r.source not in {f"code1:{i}" for i in range(6)}]
    with pytest.raises(RequestsError, match="'code' has 4 requests with label 1 to split: give 5 or more"):
        split_requests(few, seed=0)


def test_no_requests_at_all_are_refused():
    with pytest.raises(RequestsError):
        split_requests([], seed=0)


def test_the_key_sees_text_label_domain_and_order_but_not_the_source():
    rows = [Request("a", 1, "math", "x:1"), Request("b", 0, "math", "x:2")]
    key = requests_key({"cal": rows})
    assert key == requests_key({"cal": [Request("a", 1, "math", "y:9"), rows[1]]})
    changed = [
        {"train": rows},
        {"cal": rows[::-1]},
        {"cal": [Request("A", 1, "math", "x:1"), rows[1]]},
        {"cal": [Request("a", 0, "math", "x:1"), rows[1]]},
        {"cal": [Request("a", 1, "code", "x:1"), rows[1]]},
    ]
    assert len({key, *map(requests_key, changed)}) == 6


def word_sets(rows: list[Request]) -> list[set[str]]:
    return [set(re.findall(r"\w+", request.text.lower())) for request in rows]


def near_duplicates_across(splits) -> list[tuple[str, str]]:
    """Pairs on different sides whose word sets are too similar, found the plain way."""
    found = []
    sides = {name: list(zip(rows, word_sets(rows), strict=True)) for name, rows in splits.items()}
    names = list(sides)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            for first, a in sides[one]:
                for second, b in sides[other]:
                    common = len(a & b)
                    if common > 0.7 * (len(a) + len(b) - common) + 1e-6:
                        found.append((first.source, second.source))
    return found


@pytest.mark.skipif(not ALPACA.is_file(), reason="Alpaca is not here")
def test_the_benchmark_has_1600_real_requests():
    requests = load_alpaca(DATA / "annotations.csv", str(ALPACA))
    assert len(requests) == 2130
    tools = load_tools(DATA / "tools.json")
    assert apart_from([e.request for tool in tools.values() for e in tool.examples], requests) == requests
    splits = split_requests(requests, seed=0)
    assert {name: len(rows) for name, rows in splits.items()} == {"cal": 320, "train": 320, "valid": 320, "test": 640}
    assert_shares(splits, 40, DOMAINS)
    assert requests_key(splits) == "967a5c2e093610a5"  # the published results were measured on these
    assert len({request.source for rows in splits.values() for request in rows}) == 1600
    placeholder = re.compile(r"no\s*input|placeholder|\[?example (request|query)", re.IGNORECASE)
    assert [r.source for rows in splits.values() for r in rows if placeholder.search(r.text)] == []
    assert near_duplicates_across(splits) == []


def test_the_hand_written_set():
    """80 a domain and label, all different, plain text, and its examples are not among them."""
    requests = load_requests(DATA / "requests.jsonl", DOMAINS)
    cells = Counter((request.domain, request.label) for request in requests)
    assert cells == {(domain, label): 80 for domain in DOMAINS for label in (0, 1)}
    texts = [" ".join(request.text.lower().split()) for request in requests]
    assert len(set(texts)) == len(texts) == 640
    assert [text for text in texts if re.search(r"<\||\|>|</?tool_call>|</?s>|<(start|end)_of", text)] == []
    examples = {
        " ".join(e.request.lower().split()) for t in load_tools(DATA / "tools.json").values() for e in t.examples
    }
    assert examples.isdisjoint(texts)


def test_the_hand_written_set_splits():
    splits = split_requests(load_requests(DATA / "requests.jsonl", DOMAINS), seed=0)
    assert_shares(splits, 16, DOMAINS)
    assert near_duplicates_across(splits) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("requests", 0.88), ("readers", 0.8)])
def test_words_alone_do_not_give_the_hand_written_labels_away(name, most):
    """A bag of words stays below: a probe that does better reads more than a keyword."""
    requests = load_requests(DATA / f"{name}.jsonl", DOMAINS)
    bag = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    scores = cross_val_score(bag, [r.text for r in requests], [r.label for r in requests], cv=folds)
    assert scores.mean() <= most


def test_spare_requests_are_what_no_split_took_and_nothing_like_it():
    """In their order; neither a near-duplicate of a split's request nor what is linked to one by another spare one."""
    texts = ["a b c d", "w x y z", "A b c d!", "p q r s", "a b c d e", "a b c d e f", "k l m n"]
    given = [Request(text, row % 2, "math", f"file:{row}") for row, text in enumerate(texts)]
    splits = {"cal": [given[0]], "test": [given[1]]}
    assert spare_requests(given, splits) == [given[3], given[6]]
    assert spare_requests(given[:2], splits) == [] and spare_requests(given[2:], {"cal": []}) == given[2:]


def test_the_project_s_spare_requests():
    """What the hand-written set has beyond its splits: nothing; it is cut to fit."""
    given = load_requests(DATA / "requests.jsonl", DOMAINS)
    splits = split_requests(given, 0)
    assert spare_requests(given, splits) == [] and sum(map(len, splits.values())) == len(given) == 640


def test_the_held_out_requests_are_balanced_and_like_none_that_is_fitted():
    """30 a domain and label; a near-duplicate of the hand-written set would be no test of it."""
    held_out = load_requests(DATA / "held_out.jsonl", DOMAINS)
    assert Counter((request.domain, request.label) for request in held_out) == dict.fromkeys(
        [(domain, label) for domain in DOMAINS for label in (0, 1)], 30
    )
    fitted = load_requests(DATA / "requests.jsonl", DOMAINS)
    assert spare_requests(held_out, {"train": fitted}) == held_out
    assert len(near_duplicate_groups([request.text for request in held_out])) == len(held_out)
