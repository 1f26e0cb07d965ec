"""Requests: every source checks what it reads and names what is wrong."""

import csv
import hashlib
import json
import os
from collections import Counter
from pathlib import Path

import datasets
import pandas as pd
import pytest

from asa.data.duplicates import apart_from, near_duplicate_groups
from asa.data.examples import without_examples
from asa.data.requests import (
    Request,
    RequestsError,
    choose_requests,
    further_requests,
    load_alpaca,
    load_requests,
)
from asa.tools.definitions import load_tools

DATA = Path(__file__).parents[2] / "data"
ALPACA = Path(__file__).parents[2] / "shared" / "alpaca" / "train-00000-of-00001.parquet"
DOMAINS = ["math", "code", "search", "translation"]
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


def test_an_empty_domain_is_left_out(tmp_path):
    """A table has the column in every row."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"text": "2+2?", "label": 1, "domain": null}\n', encoding="utf-8")
    assert load_requests(path)[0].domain == "" and load_requests(path, ["math"])[0].domain == "math"
    with pytest.raises(RequestsError, match=r'line 1: needs a "domain", one of math, code\.'):
        load_requests(path, ["math", "code"])


def test_a_single_domain_may_be_left_out(tmp_path):
    path = write_lines(tmp_path, {"text": "a", "label": 1})
    assert load_requests(path, ["math"])[0].domain == "math"
    assert load_requests(path)[0].domain == ""
    with pytest.raises(RequestsError, match=r'line 1: needs a "domain", one of math, code\.'):
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
        ({"text": "a", "domain": "math"}, '"label" must be 1, true or yes .* not None'),
        (GOOD | {"label": "maybe"}, "not 'maybe'"),
        (GOOD | {"label": 2}, "not 2"),
        (GOOD | {"label": 0.5}, "not 0.5"),
        (GOOD | {"label": [1]}, r"not \[1\]"),
        (GOOD | {"domain": "maths"}, "unknown domain 'maths'; the tools file has math, code"),
        (GOOD | {"domain": None}, "needs a .domain., one of math, code"),
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


@pytest.mark.parametrize("name", ["alpaca", "hand-written", "alpaca, quick look"])
def test_a_users_own_file_is_not_taken_for_ours(tmp_path, name):
    """By its name our own requests would be added to it, and its licence would be wrong."""
    path = tmp_path / f"{name}.jsonl"
    path.write_text('{"text": "2+2?", "label": 1, "domain": "math"}\n', encoding="utf-8")
    assert choose_requests(str(path), "", False, str(DATA), ["math"])[1] == f"own {name}"


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

    monkeypatch.setattr("asa.data.rows.load_dataset", from_hub)
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


def test_readers_requests_are_balanced_and_stand_nowhere_else():
    """Every domain and label gives as many, none resembles another, nor one of the other files or of the examples."""
    domains = ["math", "code", "search", "translation"]
    own, readers, held_out = (load_requests(DATA / f"{n}.jsonl", domains) for n in ("requests", "readers", "held_out"))
    assert further_requests(DATA, domains) == own + readers
    counted = Counter((request.domain, request.label) for request in readers)
    assert len(counted) == 8 and set(counted.values()) == {len(readers) // 8}
    texts = [request.text for request in readers]
    assert len(near_duplicate_groups(texts)) == len(texts)
    assert apart_from([request.text for request in own + held_out], readers) == readers
    assert without_examples(readers, load_tools(DATA / "tools.json")) == readers


def test_blind_requests_resemble_nothing_that_is_fitted():
    """33 to 35 a domain and label, none resembles another, one of the other files, or an example."""
    *others, blind = (load_requests(DATA / f"{name}.jsonl") for name in ("requests", "readers", "held_out", "blind"))
    counted = Counter((request.domain, request.label) for request in blind)
    assert len(counted) == 8 and min(counted.values()) >= 33 and len(blind) == 275
    assert len(near_duplicate_groups([request.text for request in blind])) == len(blind)
    assert apart_from([request.text for rows in others for request in rows], blind) == blind
    assert without_examples(blind, load_tools(DATA / "tools.json")) == blind
