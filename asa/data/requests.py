"""Labelled requests: what people ask, whether it needs a tool, and disjoint balanced splits of it.

Three sources give the same `Request`: Alpaca rows named by `data/annotations.csv` (joined by row and hash, the text
itself is never kept), the hand-written `data/requests.jsonl`, and a user's own JSON lines. A split holds as many
requests with and without need in every domain; near-duplicates stay on one side, whatever their script, and those of
the prompt's examples stay out. No label is guessed and no row is made up.
"""

import csv
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import load_dataset
from datasets.exceptions import DatasetsError
from sklearn.feature_extraction.text import CountVectorizer

from asa.models.folders import said_by
from asa.models.hub import hub_sentence
from asa.support.files import UserError, half_character, key_of

ALPACA_ID = "tatsu-lab/alpaca"
NEAR_DUPLICATE = 0.7  # Jaccard similarity of the word sets
NEAR_DUPLICATE_DENSE = 0.45  # the same for texts in dense scripts: a place name is a larger part of a request there
SPLIT_UNITS = {"cal": 1, "train": 1, "valid": 1, "test": 2}  # shares per domain and label
LARGEST_UNIT = 40  # 40/40/40/80 a domain and label: the 1,600-request benchmark
_NO_INPUT = re.compile(r"<?\s*no\s*input\s*>?\.?", re.IGNORECASE)
_HAN = r"\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HIRAGANA = r"\u3041-\u309f"
_KATAKANA = r"\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_LETTERS_UNSPACED = (  # Thai, Lao, Tibetan, Burmese; Khmer; Tai Le to Khmer symbols; Tai Tham; Balinese; Javanese, Cham
    r"\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\uaadf"
)
_UNSPACED = _HAN + _HIRAGANA + _KATAKANA + _LETTERS_UNSPACED
_PIECE = re.compile(rf"[{_HAN}]|[{_HIRAGANA}]+|[{_KATAKANA}]+|[{_LETTERS_UNSPACED}]+|(?:(?![{_UNSPACED}])\w)+")
_HANGUL = r"\u1100-\u11ff\uac00-\ud7a3"  # has spaces, but a word carries its particle: few words a request
_DENSE = re.compile(rf"[{_UNSPACED}{_HANGUL}]")


class RequestsError(UserError):
    """Requests cannot be used; the message names the file, the row and what to do."""


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        text: What the user writes.
        label: 1 where it needs its domain's tool, 0 where words are enough.
        domain: The domain, "" where unknown.
        source: Where it comes from, e.g. "alpaca:31" or "requests.jsonl:5"; what may be printed of an Alpaca row.
    """

    text: str
    label: int
    domain: str
    source: str


def load_alpaca(annotations: str | Path, parquet: str = "") -> list[Request]:
    """Alpaca rows with our annotations.

    Args:
        annotations: CSV with `row`, `sha256_12` (of instruction + newline + input), `domain`, `needs_tool`.
        parquet: Alpaca as a parquet file; "" loads it from the hub.

    Raises:
        RequestsError: A file is missing or is not Alpaca, or a row's hash differs: another data set, or another order.
    """
    for path in filter(None, (annotations, parquet)):
        if not Path(path).is_file():
            raise RequestsError(f"{path}: no such file; give the path of Alpaca's parquet file and of our annotations.")
    if parquet:
        try:
            rows = load_dataset("parquet", data_files=parquet, split="train")
        except (DatasetsError, ValueError) as error:
            raise RequestsError(f"{parquet}: cannot be read; give Alpaca as a parquet file.") from error
    else:
        try:
            rows = load_dataset(ALPACA_ID, split="train")
        except Exception as error:  # the hub's library, datasets and what they fetch with raise anything
            instead = "give its parquet file"
            other = f"{ALPACA_ID} cannot be loaded ({said_by(error)}); {instead}."
            raise RequestsError(hub_sentence(ALPACA_ID, error, instead=instead) or other) from error
    if not {"instruction", "input"} <= set(rows.column_names):
        raise RequestsError(f"{parquet or ALPACA_ID}: has no columns instruction and input, so it is not Alpaca.")
    requests = []
    with open(annotations, encoding="utf-8-sig", newline="") as file:
        for line in csv.DictReader(file):
            number = int(line["row"])
            if number >= len(rows):
                raise RequestsError(
                    f"Alpaca has {len(rows)} rows but {annotations} names row {number}: another data set."
                )
            row = rows[number]
            joined = f"{row['instruction']}\n{row['input']}"
            if hashlib.sha256(joined.encode()).hexdigest()[:12] != line["sha256_12"]:
                raise RequestsError(
                    f"Alpaca row {number} is not the annotated one (its hash differs): "
                    f"use the {ALPACA_ID} rows in their order."
                )
            bare = not row["input"].strip() or _NO_INPUT.fullmatch(row["input"].strip())
            text = row["instruction"] if bare else joined
            requests.append(Request(text, int(line["needs_tool"]), line["domain"], f"alpaca:{number}"))
    return requests


def load_requests(path: str | Path, domains: list[str] | None = None) -> list[Request]:
    """Requests from JSON lines `{"text": ..., "label": 0 or 1, "domain": ...}`.

    Args:
        path: The file.
        domains: Allowed domains; a line may leave its domain out where there is just one. None: any, or none.

    Raises:
        RequestsError: The file is missing or empty, or a line is not such an object in UTF-8.
    """
    path = Path(path)
    if not path.is_file():
        raise RequestsError(f"{path}: no such file; give a file of JSON lines with text, label and domain.")
    requests = []
    for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
        where = f"{path} line {number}"
        try:
            line = raw.decode().removeprefix("\ufeff")  # what some editors begin a UTF-8 file with
        except UnicodeDecodeError as error:
            raise RequestsError(f"{where}: not UTF-8 ({error.reason}); save the file as UTF-8.") from None
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deep, or a number too long")
            raise RequestsError(f"{where}: not JSON ({reason}); write one JSON object per line.") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
            raise RequestsError(f'{where}: needs a non-empty "text".')
        if row.get("label") not in (0, 1):
            raise RequestsError(f'{where}: "label" must be 1 (needs a tool) or 0, not {row.get("label")!r}.')
        domain = row.get("domain", domains[0] if domains and len(domains) == 1 else "")
        if half := half_character(f"{row['text']}{domain}"):
            raise RequestsError(f"{where}: {half} is half a character; write the whole character, or remove it.")
        if domains is not None and domain not in domains:
            raise RequestsError(f"{where}: unknown domain {domain!r}; the tools file has {', '.join(domains)}.")
        requests.append(Request(row["text"], int(row["label"]), str(domain), f"{printable_name(path.name)}:{number}"))
    if not requests:
        raise RequestsError(f"{path}: holds no request; write one JSON object per line.")
    return requests


def printable_name(name: str) -> str:
    """A file's name as text: bytes of it that are not UTF-8, which Python keeps as lone surrogates, are escaped."""
    return name.encode(errors="backslashreplace").decode()


def choose_requests(
    requests: str, alpaca: str, hub: bool, data: str, domains: list[str]
) -> tuple[list[Request], str, str]:
    """The requests to run on: the user's file, else Alpaca where it is to be had, else the hand-written set.

    Both of the latter know the annotated domains alone.

    Args:
        requests: The user's JSON lines, or "".
        alpaca: Alpaca as a parquet file, or "".
        hub: Whether the hub answers.
        data: Folder with `annotations.csv` and `requests.jsonl`.
        domains: The tools' domains.

    Returns:
        (requests, name of the benchmark, why it was picked).

    Raises:
        RequestsError: What was asked for cannot be used.
    """
    if requests:
        given = load_requests(requests, domains)
        unserved = [domain for domain in domains if all(request.domain != domain for request in given)]
        if unserved:
            raise RequestsError(f"{requests}: no request for {', '.join(unserved)}: add some, or leave its tool out.")
        return given, printable_name(Path(requests).stem), "given"
    annotated = Path(data) / "annotations.csv"
    with annotated.open(encoding="utf-8-sig", newline="") as file:
        known = {line["domain"] for line in csv.DictReader(file)}
    if known != set(domains):
        raise RequestsError(
            f"the tools' domains are {', '.join(domains)} and the project's own requests have "
            f"{', '.join(sorted(known))}: give your own requests too (--requests, or REQUESTS in the notebook)."
        )
    if alpaca or hub:
        return (
            load_alpaca(annotated, alpaca),
            "alpaca",
            f"read from {alpaca}" if alpaca else f"{ALPACA_ID} from the hub",
        )
    own = load_requests(Path(data) / "requests.jsonl", domains)
    return own, "hand-written", "no Alpaca file given and no hub"


def split_requests(requests: list[Request], seed: int) -> dict[str, list[Request]]:
    """Disjoint splits `cal`, `train`, `valid`, `test`, balanced over domains and labels, in shares 1:1:1:2.

    The unit is a fifth of the smallest cell (a domain and a label), 40 at most; rows beyond it are left out.

    Args:
        requests: Labelled requests; every domain must have both labels.
        seed: Of the shuffle.

    Raises:
        RequestsError: A domain lacks a label, or has fewer than 5 of one.
    """
    if not requests:
        raise RequestsError("no requests are left to split: give more of them.")
    cells: dict[tuple[str, int], int] = {}
    for request in requests:
        cells[request.domain, request.label] = cells.get((request.domain, request.label), 0) + 1
    for domain in {domain for domain, _ in cells}:
        for label in (0, 1):
            if cells.get((domain, label), 0) < 5:
                raise RequestsError(
                    f"domain {domain!r} has {cells.get((domain, label), 0)} requests with label {label} to split: "
                    "give 5 or more of both, 6 where its tool brings no examples."
                )
    unit = min(LARGEST_UNIT, *(count // 5 for count in cells.values()))
    room = {(split, cell): unit * share for split, share in SPLIT_UNITS.items() for cell in cells}
    groups = near_duplicate_groups([request.text for request in requests])
    order = np.random.default_rng(seed).permutation(len(groups))
    splits: dict[str, list[Request]] = {split: [] for split in SPLIT_UNITS}
    for group in sorted((groups[i] for i in order), key=len, reverse=True):  # large groups while all splits have room
        members = [requests[i] for i in group]
        needs = [(member.domain, member.label) for member in members]
        fitting = [s for s in splits if all(room[s, cell] >= needs.count(cell) for cell in needs)]
        if fitting:
            split = max(fitting, key=lambda s: min(room[s, cell] / (unit * SPLIT_UNITS[s]) for cell in needs))
            splits[split] += members
            for cell in needs:
                room[split, cell] -= 1
    short = {f"{split} {cell}": left for (split, cell), left in room.items() if left}
    if short:
        raise RequestsError(f"near-duplicates leave splits unfilled ({short}): add different requests.")
    return splits


def spare_requests(requests: list[Request], splits: dict[str, list[Request]]) -> list[Request]:
    """Those of `requests` that no split took and that are near-duplicates of none that a split took, in their order.

    They may help to fit, and can spoil no test, however the splits' own requests are dealt again.
    """
    taken = dict.fromkeys(request for rows in splits.values() for request in rows)
    pool = [request for request in dict.fromkeys(requests) if request not in taken]
    return apart_from([request.text for request in taken], pool)


def apart_from(texts: list[str], requests: list[Request]) -> list[Request]:
    """Those of `requests` that are linked by near-duplicates to none of `texts`, in their order."""
    groups = near_duplicate_groups([*texts, *(request.text for request in requests)])
    near = {row for group in groups if group[0] < len(texts) for row in group}
    return [request for row, request in enumerate(requests, len(texts)) if row not in near]


def near_duplicate_groups(texts: list[str]) -> list[list[int]]:
    """Indices of `texts` in groups that are linked by near-duplicates.

    Two texts are near-duplicates where the Jaccard similarity of their words (`text_words`) is above `NEAR_DUPLICATE`,
    or above `NEAR_DUPLICATE_DENSE` where most words of both are in scripts without spaces or in Hangul.

    >>> near_duplicate_groups(["a red big cat", "why", "a RED big cat!"])
    [[0, 2], [1]]
    """
    if not texts:
        return []
    counter = CountVectorizer(binary=True, analyzer=text_words)
    words = counter.fit_transform(texts).astype(np.float32)
    common = (words @ words.T).toarray()
    sizes = common.diagonal()
    dense_words = np.array([bool(_DENSE.match(word)) for word in counter.get_feature_names_out()], np.float32)
    dense = words @ dense_words > sizes / 2
    limit = np.where(dense[:, None] & dense[None, :], np.float32(NEAR_DUPLICATE_DENSE), np.float32(NEAR_DUPLICATE))
    similar = common > limit * (sizes[:, None] + sizes[None, :] - common)
    groups, seen = [], set()
    for start in range(len(texts)):
        group, frontier = [], [start]
        while frontier:
            index = frontier.pop()
            if index not in seen:
                seen.add(index)
                group.append(index)
                frontier += np.flatnonzero(similar[index]).tolist()
        if group:
            groups.append(sorted(group))
    return groups


def text_words(text: str) -> list[str]:
    """The words of a text, lower-case; scripts without spaces give what comes nearest to words.

    A Han character is one. A run of kana beside Han characters is one, since the script changes where a word ends.
    Letters of other such scripts, and kana alone, give all pairs of neighbours. A text without any word is one.

    >>> text_words("Is 東京タワー open?"), text_words("のてん")
    (['is', '東', '京', 'タワー', 'open'], ['のて', 'てん'])
    """
    text = text.lower()
    pieces = _PIECE.findall(text) or [text]
    paired = _LETTERS_UNSPACED + (_HIRAGANA + _KATAKANA) * (not re.search(f"[{_HAN}]", text))
    words = []
    for piece in pieces:
        if len(piece) > 2 and re.match(f"[{paired}]", piece):
            words += [piece[place : place + 2] for place in range(len(piece) - 1)]
        else:
            words.append(piece)
    return words


def requests_key(splits: dict[str, list[Request]]) -> str:
    """Hash of the splits' texts, labels and domains, in order."""
    return key_of({name: [(r.text, r.label, r.domain) for r in rows] for name, rows in splits.items()})
