"""Requests: every source checks what it reads, and splits are balanced, disjoint and reproducible."""

import csv
import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path

import datasets
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from test_duplicates import PLACES

from asa.data.duplicates import apart_from, near_duplicate_groups
from asa.data.requests import Request, RequestsError, choose_requests, load_alpaca, load_requests
from asa.data.splits import requests_key, spare_requests, split_requests
from asa.tools.definitions import load_tools

DATA = Path(__file__).parents[2] / "data"
ALPACA = Path(__file__).parents[2] / "shared" / "alpaca" / "train-00000-of-00001.parquet"
DOMAINS = ["math", "code", "search", "translation"]
SHARES = {"cal": 1, "train": 1, "valid": 1, "test": 2}
ROWS = [("Add 2 and 3.", ""), ("Translate:", "good day"), ("Name a fruit.", "<noinput>"), ("Say hello.", "")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """What `datasets` makes of a parquet file stays in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def digest(instruction: str, given: str) -> str:
    return hashlib.sha256(f"{instruction}\n{given}".encode()).hexdigest()[:12]


def write_annotations(path: Path, lines: list[tuple]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("row", "sha256_12", "domain", "needs_tool"), *lines])
    return path


def small_alpaca(folder: Path, rows=ROWS, lines=None) -> tuple[Path, str]:
    """An annotations file and a parquet file of `rows`."""
    parquet = folder / "alpaca.parquet"
    columns = {"instruction": [r[0] for r in rows], "input": [r[1] for r in rows], "output": ["secret"] * len(rows)}
    pd.DataFrame(columns).to_parquet(parquet)
    if lines is None:
        lines = [(n, digest(*row), "math", n % 2) for n, row in enumerate(rows)]
    return write_annotations(folder / "annotations.csv", lines), str(parquet)


def test_alpaca_rows_are_joined_by_row_and_hash(tmp_path):
    lines = [(3, digest(*ROWS[3]), "search", 0), (1, digest(*ROWS[1]), "translation", 1)]
    assert load_alpaca(*small_alpaca(tmp_path, lines=lines)) == [
        Request("Say hello.", 0, "search", "alpaca:3"),
        Request("Translate:\ngood day", 1, "translation", "alpaca:1"),
    ]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "  ",
        "<noinput>",
        "noinput",
        "No input",
        "NO INPUT.",
        "<No Input>",
        "<no input>.",
        " no input ",
        "< noinput >",
    ],
)
def test_a_no_input_marker_is_not_part_of_the_request(tmp_path, given):
    (request,) = load_alpaca(*small_alpaca(tmp_path, [("Name a fruit.", given)]))
    assert request.text == "Name a fruit."


@pytest.mark.parametrize("given", ["No input device found", "input", "no", "noinput noinput", "<input>"])
def test_an_input_that_only_looks_like_the_marker_stays(tmp_path, given):
    (request,) = load_alpaca(*small_alpaca(tmp_path, [("Explain:", given)]))
    assert request.text == f"Explain:\n{given}"


def test_another_data_set_is_refused_without_showing_its_text(tmp_path):
    lines = [(0, digest(*ROWS[0]), "math", 1), (2, digest("Name a fruit.", ""), "math", 0)]
    with pytest.raises(RequestsError, match=r"row 2 .*hash") as caught:
        load_alpaca(*small_alpaca(tmp_path, lines=lines))
    assert "fruit" not in str(caught.value)


def test_a_row_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RequestsError, match=r"4 rows .* row 4"):
        load_alpaca(*small_alpaca(tmp_path, lines=[(4, "0" * 12, "math", 1)]))


def test_a_missing_file_is_named(tmp_path):
    annotations, parquet = small_alpaca(tmp_path)
    with pytest.raises(RequestsError, match=r"none\.parquet: no such file"):
        load_alpaca(annotations, str(tmp_path / "none.parquet"))
    with pytest.raises(RequestsError, match=r"none\.csv: no such file"):
        load_alpaca(tmp_path / "none.csv", parquet)
    with pytest.raises(RequestsError, match=r"none\.jsonl: no such file"):
        load_requests(tmp_path / "none.jsonl")


def test_a_file_that_is_not_alpaca_is_named(tmp_path):
    annotations, parquet = small_alpaca(tmp_path)
    pd.DataFrame({"text": ["a"] * 4}).to_parquet(parquet)
    with pytest.raises(RequestsError, match=r"alpaca\.parquet.*instruction"):
        load_alpaca(annotations, parquet)
    Path(parquet).write_text('[{"instruction": "a", "input": "", "output": "b"}]', encoding="utf-8")  # the JSON release
    with pytest.raises(RequestsError, match=r"alpaca\.parquet.*parquet"):
        load_alpaca(annotations, parquet)


def write_lines(folder: Path, *lines) -> Path:
    path = folder / "mine.jsonl"
    path.write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), encoding="utf-8"
    )
    return path


GOOD = {"text": "What is 2+2?", "label": 1, "domain": "math"}


def test_json_lines_are_read_with_their_line_numbers(tmp_path):
    path = write_lines(tmp_path, GOOD, "", "   ", {"text": "Why?", "label": 0, "domain": "code", "note": "x"})
    expected = [Request("What is 2+2?", 1, "math", "mine.jsonl:1"), Request("Why?", 0, "code", "mine.jsonl:4")]
    assert load_requests(path, ["math", "code"]) == load_requests(path) == expected


def test_only_a_newline_ends_a_line(tmp_path):
    """U+2028 and U+0085 may stand raw in a JSON string; a Windows line end is fine."""
    raw = json.dumps(GOOD | {"text": "one\u2028two\u0085three"}, ensure_ascii=False)
    path = write_lines(tmp_path, raw, GOOD)
    assert [request.text for request in load_requests(path)] == ["one\u2028two\u0085three", GOOD["text"]]
    path.write_bytes(json.dumps(GOOD).encode() + b"\r\n" + json.dumps(GOOD).encode())
    assert [request.source for request in load_requests(path)] == ["mine.jsonl:1", "mine.jsonl:2"]


def test_a_byte_order_mark_is_no_part_of_a_request(tmp_path):
    """Some editors write one in front; files put together have more."""
    path = write_lines(tmp_path, GOOD, GOOD)
    path.write_bytes(b"\n".join(b"\xef\xbb\xbf" + line for line in path.read_bytes().split(b"\n")))
    assert [(r.text, r.source) for r in load_requests(path)] == [(GOOD["text"], f"mine.jsonl:{n}") for n in (1, 2)]


def test_annotations_may_have_a_byte_order_mark(tmp_path):
    annotations, parquet = small_alpaca(tmp_path)
    annotations.write_bytes(b"\xef\xbb\xbf" + annotations.read_bytes())
    assert len(load_alpaca(annotations, parquet)) == len(ROWS)
    assert len(choose_requests("", parquet, False, str(tmp_path), ["math"])[0]) == len(ROWS)


def test_control_characters_and_whole_pairs_are_text(tmp_path):
    """A log with colours may be asked about; JSON writes an emoji as two halves."""
    texts = ["why \x00?", "\x1b[31mred\x1b[0m", "a\tb\u2028\x85", "🙂"]
    path = write_lines(tmp_path, *(GOOD | {"text": text} for text in texts))
    assert "\\ud83d\\ude42" in path.read_text()
    assert [request.text for request in load_requests(path)] == texts


def test_a_file_name_that_is_no_text_can_still_be_printed(tmp_path):
    path = tmp_path / os.fsdecode(b"m\xffne.jsonl")
    try:
        path.write_text(json.dumps(GOOD))
    except OSError:
        pytest.skip("this file system has no such names")
    (request,), name, _ = choose_requests(str(path), "", False, "", ["math"])
    assert (request.source, name) == ("m\\udcffne.jsonl:1", "m\\udcffne")


def test_a_single_domain_may_be_left_out(tmp_path):
    path = write_lines(tmp_path, {"text": "a", "label": 1})
    assert load_requests(path, ["math"])[0].domain == "math"
    assert load_requests(path)[0].domain == ""
    with pytest.raises(RequestsError, match="line 1: unknown domain ''; the tools file has math, code"):
        load_requests(path, ["math", "code"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a", "label": 1', "not JSON"),
        ("text: a", "not JSON"),
        ("[1]", '"text"'),
        ('"a"', '"text"'),
        ({"label": 1, "domain": "math"}, '"text"'),
        (GOOD | {"text": " \n"}, '"text"'),
        (GOOD | {"text": ["a"]}, '"text"'),
        ({"text": "a", "domain": "math"}, '"label" must be 1 .* not None'),
        (GOOD | {"label": "1"}, "not '1'"),
        (GOOD | {"label": 2}, "not 2"),
        (GOOD | {"label": 0.5}, "not 0.5"),
        (GOOD | {"label": [1]}, r"not \[1\]"),
        (GOOD | {"domain": "maths"}, "unknown domain 'maths'; the tools file has math, code"),
        (GOOD | {"domain": None}, "unknown domain None"),
        (GOOD | {"domain": ["math"]}, "unknown domain"),
        (GOOD | {"text": "half \ud83d of it"}, r"\\ud83d is half a character; write the whole character, or remove it"),
        (GOOD | {"text": "\ude42\ud83d"}, r"\\ude42 is half a character"),
        (GOOD | {"domain": "\udcff"}, r"\\udcff is half a character"),
        ("[" * 100_000, "not JSON .nested too deep, or a number too long"),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", "not JSON .nested too deep, or a number too long"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(tmp_path, line, words):
    path = write_lines(tmp_path, GOOD, "", line, GOOD)
    with pytest.raises(RequestsError, match=words) as caught:
        load_requests(path, ["math", "code"])
    assert str(caught.value).startswith(f"{path} line 3: ")
    assert "\n" not in str(caught.value)


def test_an_empty_or_unreadable_file_is_named(tmp_path):
    path = write_lines(tmp_path, "", " ")
    with pytest.raises(RequestsError, match=r"mine\.jsonl: holds no request"):
        load_requests(path)
    good = json.dumps(GOOD).encode()
    for bad in ('{"text": "café", "label": 1}'.encode("latin-1"), b'{"text": "\xed\xa0\xbd", "label": 1}'):
        path.write_bytes(b"\n".join([good, b"", bad, good]))
        with pytest.raises(RequestsError, match=r"mine\.jsonl line 3: not UTF-8 .*; save the file as UTF-8\.$"):
            load_requests(path)
    path.write_text(json.dumps(GOOD), encoding="utf-16")
    with pytest.raises(RequestsError, match=r"mine\.jsonl line 1: not UTF-8"):
        load_requests(path)


def small_data(folder: Path) -> str:
    """A data folder whose annotations cover one domain, `math`."""
    small_alpaca(folder)
    hand = [{"text": "By hand?", "label": 1, "domain": "math"}]
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, hand)), encoding="utf-8")
    return str(folder)


def test_the_users_own_file_comes_first(tmp_path):
    mine = write_lines(tmp_path, GOOD)
    chosen = choose_requests(str(mine), "unused.parquet", True, "no data folder", ["math"])
    assert chosen == ([Request("What is 2+2?", 1, "math", "mine.jsonl:1")], "mine", "given")


def test_a_tool_without_any_request_is_named(tmp_path):
    """Otherwise the run would fail minutes later, in the middle of the fit."""
    mine = write_lines(tmp_path, GOOD)
    with pytest.raises(RequestsError, match=r"mine\.jsonl.*no request.*code, search"):
        choose_requests(str(mine), "", False, "", ["math", "code", "search"])


def test_a_given_alpaca_file_comes_next(tmp_path):
    rows, name, why = choose_requests("", str(tmp_path / "alpaca.parquet"), False, small_data(tmp_path), ["math"])
    assert (len(rows), name) == (len(ROWS), "alpaca")
    assert rows[0].source == "alpaca:0" and "alpaca.parquet" in why


def test_the_hubs_alpaca_is_taken_where_the_hub_answers(tmp_path, monkeypatch):
    asked = []

    def from_hub(*args, **kwargs):
        asked.append((args, kwargs))
        return datasets.Dataset.from_dict({"instruction": [r[0] for r in ROWS], "input": [r[1] for r in ROWS]})

    monkeypatch.setattr("asa.data.requests.load_dataset", from_hub)
    rows, name, why = choose_requests("", "", True, small_data(tmp_path), ["math"])
    assert asked == [(("tatsu-lab/alpaca",), {"split": "train"})]
    assert (len(rows), name, why) == (len(ROWS), "alpaca", "tatsu-lab/alpaca from the hub")


def test_the_hand_written_set_comes_last_and_says_why(tmp_path):
    rows, name, why = choose_requests("", "", False, small_data(tmp_path), ["math"])
    assert ([request.text for request in rows], name) == (["By hand?"], "hand-written")
    assert why == "no Alpaca file given and no hub"


@pytest.mark.parametrize("domains", [["weather"], ["math"], ["math", "code", "search", "translation", "weather"]])
@pytest.mark.parametrize("alpaca", ["", "alpaca.parquet"])
def test_other_tools_need_other_requests(domains, alpaca):
    """Neither for fewer tools nor for more: the project's own requests know the annotated ones alone."""
    known = "code, math, search, translation"
    with pytest.raises(RequestsError, match=rf"are {', '.join(domains)} and .* have {known}: .*--requests"):
        choose_requests("", alpaca, True, str(DATA), domains)


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


def test_words_alone_do_not_give_the_hand_written_labels_away():
    """A bag of words stays at .88: a probe that does better reads more than a keyword."""
    requests = load_requests(DATA / "requests.jsonl", DOMAINS)
    bag = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=1000))
    folds = StratifiedKFold(10, shuffle=True, random_state=0)
    scores = cross_val_score(bag, [r.text for r in requests], [r.label for r in requests], cv=folds)
    assert scores.mean() <= 0.88


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
