"""Labelling: every label is written at once, none is asked twice, and keys do what they say."""

import json
import os

import pytest
from conftest import tiny_assistant

from asa.adapter.decision import Decision
from asa.app.labelling import PROPOSED as KEYS
from asa.app.labelling import Labels, Open, label, open_requests, proposals
from asa.data.requests import load_requests
from asa.data.rows import RequestsError
from asa.support.files import UserError

ASKED = [Open(text, "", f"q.txt:{row}") for row, text in enumerate(("sure", "unsure", "no"), 1)]
PROPOSED = {
    text: Decision(domain, p, 0, 1, 0.0, 1.0)
    for text, domain, p in (("sure", "math", 0.99), ("unsure", "code", 0.45), ("no", "math", 0.2))
}


def labelled(tmp_path, *typed: str, proposed=PROPOSED, domains=("math", "code"), asked=ASKED):
    """(what the file holds, what was said)."""
    said: list[str] = []
    labels = Labels(tmp_path / "out.jsonl")
    label(asked, proposed, domains, labels, typed, said.append)
    path = tmp_path / "out.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    return [(row["text"], row["label"], row["domain"]) for row in rows], said


def test_the_least_certain_comes_first(tmp_path):
    """Enter takes what is proposed, a digit another label, a word behind it another domain."""
    rows, said = labelled(tmp_path, "1", "", "0 code")
    assert rows == [("unsure", 1, "code"), ("no", 0, "math"), ("sure", 0, "code")]
    assert said[0] == KEYS and "1 of 3  code, p(tool) 0.450: 0?\nunsure" in said[1]
    assert said[-1] == f"\n3 labelled, 0 left; {tmp_path / 'out.jsonl'} holds 3."
    assert [request.label for request in load_requests(tmp_path / "out.jsonl", ["math", "code"])] == [1, 0, 0]


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        (("1", "b", "0", "q"), ["unsure"]),
        (("1", "1", "b", "b", "b", "q"), []),
        (("s", "1", "b", "1"), ["no"]),
        (("what?", "1 nowhere", "1"), ["unsure"]),
        ((), []),
    ],
    ids=["back", "back to the start", "skip", "misspelt", "ended"],
)
def test_what_is_taken_back_or_skipped_is_not_labelled(tmp_path, typed, texts):
    rows, _ = labelled(tmp_path, *typed)
    assert [text for text, *_ in rows] == texts
    assert rows == [] or rows[0][1] == (0 if "b" in typed and "s" not in typed else 1)


def test_each_label_is_written_when_it_is_given(tmp_path):
    """Whatever ends the program, what was typed is kept; the next time asks for the rest."""

    def typed():
        yield "1"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(ASKED, {}, ("math",), Labels(tmp_path / "out.jsonl"), typed(), lambda text: None)
    labels = Labels(tmp_path / "out.jsonl")
    (tmp_path / "q.txt").write_text("sure\n\nunsure\nno\nno\n", "utf-8")
    left = open_requests(tmp_path / "q.txt", [row["text"] for row in labels.rows])
    assert [request.text for request in left] == ["unsure", "no"] and left[0].source.endswith("q.txt line 3")


def test_without_an_adapter_one_labels_in_order(tmp_path):
    """Enter proposes nothing, and a domain is asked for where it is not known."""
    rows, said = labelled(tmp_path, "", "1", "1 math", "0 math", "1 math", proposed={}, domains=())
    assert rows == [("sure", 1, "math"), ("unsure", 0, "math"), ("no", 1, "math")]
    assert (
        "which domain? 1 DOMAIN" in said
        and any(line.startswith("Enter is not a key here.") for line in said)
        and "p(tool)" not in "".join(said)
    )
    rows, said = labelled(tmp_path, "1", "q", proposed={}, asked=[Open("more", "code", "q.csv:1"), *ASKED])
    assert rows[-1] == ("more", 1, "code") and said[-1].startswith("\n1 labelled, 3 left; ")


def test_rows_with_a_label_are_not_asked(tmp_path):
    (tmp_path / "q.csv").write_text("text,label,domain\na,1,math\nb,,math\nc,0,\nb,,code\n", "utf-8")
    assert [(each.text, each.domain) for each in open_requests(tmp_path / "q.csv")] == [("b", "math")]
    (tmp_path / "r.csv").write_text("text\nonly this\n", "utf-8")
    assert [each.text for each in open_requests(tmp_path / "r.csv")] == ["only this"]
    (tmp_path / "q.jsonl").write_text('{"label": 1}\n', "utf-8")
    with pytest.raises(RequestsError, match=r'q.jsonl line 1: needs a non-empty "text"'):
        open_requests(tmp_path / "q.jsonl")


def test_where_labels_cannot_be_kept_is_said_before(tmp_path):
    with pytest.raises(RequestsError, match=r"x\.jsonl: there is no folder .*nowhere; make it"):
        Labels(tmp_path / "nowhere" / "x.jsonl")


def test_what_is_proposed_is_what_the_adapter_decides(tiny_lfm2, tiny_tokenizer, prompts):
    """Of all requests at once, as when each is asked."""
    assistant = tiny_assistant(tiny_lfm2, tiny_tokenizer, prompts)
    for request, decision in zip(ASKED, proposals(assistant, ASKED), strict=True):
        asked = assistant(request.text, max_new_tokens=1).decision
        assert (decision.domain, decision.gate) == (asked.domain, asked.gate)
        assert decision.p_tool == pytest.approx(asked.p_tool, abs=1e-3)


def test_labels_are_json_lines_alone(tmp_path):
    """A table would lose its form and its other columns."""
    (tmp_path / "labels.csv").write_text("text,label\na,1\n", "utf-8")
    with pytest.raises(RequestsError, match=r"labels are kept as JSON lines; give a file whose name ends in \.jsonl"):
        Labels(tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text("utf-8") == "text,label\na,1\n"


def test_what_stands_in_the_file_stays(tmp_path):
    """With fields of its own; and a file from which all was taken back is no fault."""
    path = tmp_path / "out.jsonl"
    path.write_text('{"text": "old", "label": "yes", "domain": "math", "by": "me"}\n', "utf-8")
    labels = Labels(path)
    labels.add("new", 0, "math")
    assert json.loads(path.read_text("utf-8").splitlines()[0])["by"] == "me" and len(Labels(path).rows) == 2
    labels.take_back()
    labels.take_back()
    assert path.read_text("utf-8") == "" and Labels(path).rows == []


def test_half_a_character_is_named_before_it_is_labelled(tmp_path):
    (tmp_path / "q.jsonl").write_text(r'{"text": "a \ud83d"}' + "\n", "utf-8")
    with pytest.raises(RequestsError, match=r"q\.jsonl line 1: .*half a character"):
        open_requests(tmp_path / "q.jsonl")
    (tmp_path / "q.jsonl").write_text(r'{"text": "a", "label": 1, "domain": "b", "note": "\ud83d"}' + "\n", "utf-8")
    with pytest.raises(RequestsError, match=r"q\.jsonl line 1: .*half a character"):
        Labels(tmp_path / "q.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(RequestsError, match=r"folder\.jsonl: no such file"):
        Labels(tmp_path / "folder.jsonl")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named_before(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="is no folder that can be written"):
        Labels(tmp_path / "out.jsonl")
