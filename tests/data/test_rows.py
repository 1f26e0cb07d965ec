"""Rows: the same requests come out of every kind of file, and what is ambiguous is named by row and column."""

import json

import datasets
import pytest

import asa.data.rows
from asa.data.requests import RequestsError, load_requests

ROWS = [
    {"text": "Wie ist das Wetter in K\u00f6ln; heute?", "label": 1, "domain": "weather"},
    {"text": 'What is a "front",\nand why?', "label": 0, "domain": "weather"},
]
FOUND = [(row["text"], row["label"], row["domain"]) for row in ROWS]


def table(delimiter: str, labels=("1", "0"), header=("text", "label", "domain")) -> str:
    quoted = [f'"{row["text"].replace(chr(34), 2 * chr(34))}"' for row in ROWS]
    lines = [delimiter.join((text, label, "weather")) for text, label in zip(quoted, labels, strict=True)]
    return "\r\n".join([delimiter.join(header), *lines, ""])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.jsonl", "\n".join(map(json.dumps, ROWS)).encode()),
        ("r.json", json.dumps(ROWS).encode("utf-8-sig")),
        ("r.csv", table(",").encode()),
        ("r.CSV", table(";", ("yes", "No")).encode("utf-8-sig")),
        ("r.csv", table(";", ("TRUE", "FALSE"), (" Text", "LABEL", "Domain")).encode("cp1252")),
        ("r.tsv", table("\t", ("1.0", "0.0")).encode("utf-16")),
    ],
    ids=["jsonl", "json", "csv", "excel", "cp1252", "utf-16"],
)
def test_every_kind_of_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    found = load_requests(path, ["weather", "calendar"])
    assert [(request.text, request.label, request.domain) for request in found] == [
        (text.replace("\n", "\n"), label, domain) for text, label, domain in FOUND
    ]
    assert all(request.source.startswith(f"{name}:") for request in found)


@pytest.mark.slow
def test_parquet(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "r.parquet")
    found = load_requests(tmp_path / "r.parquet", ["weather"])
    assert [(request.text, request.label, request.domain) for request in found] == FOUND
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(RequestsError, match=r"bad.parquet: cannot be read .*save it as Parquet again"):
        load_requests(tmp_path / "bad.parquet")


def test_a_data_set_of_the_hub(monkeypatch):
    """Its train split; a failure is one sentence."""
    asked = []
    monkeypatch.setattr(asa.data.rows, "load_dataset", lambda name, split: asked.append((name, split)) or ROWS)
    found = load_requests("hub:owner/name", ["weather"])
    assert asked == [("owner/name", "train")] and found[1].source == "name:2"

    def fails(*_, **__):
        raise ConnectionError("refused")

    monkeypatch.setattr(asa.data.rows, "load_dataset", fails)
    with pytest.raises(RequestsError, match=r"^owner/name cannot be loaded: the hub does not answer .* or give a file"):
        load_requests("hub:owner/name")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,label\na,maybe\n", r"row 2: \"label\" must be 1, true or yes .* not 'maybe'"),
        ("text,label\na,1,b\n", "row 2: 3 columns, where the header has 2; put the text in quotes"),
        ("text,label\n,1\n", 'row 2: needs a non-empty "text"'),
        ("question,label\na,1\n", "row 1: needs the columns text and label, and has 'question,label'"),
        ("", "row 1: needs the columns text and label"),
        ("text,label\n", "holds no request"),
        ("text,label\na,\n", 'row 2: "label" must be .* not None'),
    ],
)
def test_what_is_ambiguous_is_named(tmp_path, content, said):
    path = tmp_path / "r.csv"
    path.write_text(content)
    with pytest.raises(RequestsError, match=said):
        load_requests(path)


@pytest.mark.parametrize(("content", "said"), [("{}", "holds no list"), ("[", "not JSON"), ("[1]", "entry 1: needs")])
def test_json_that_is_no_list_of_objects(tmp_path, content, said):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(RequestsError, match=said):
        load_requests(path)
