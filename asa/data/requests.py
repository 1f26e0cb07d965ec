"""Labelled requests: what people ask, and whether it needs a tool.

Three sources give the same `Request`: Alpaca rows named by `data/annotations.csv` (joined by row and hash, the text
itself is never kept), the hand-written `data/requests.jsonl` and `data/readers.jsonl`, and a user's own file (`rows`).
No label is guessed.
"""

import csv
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from datasets import load_dataset
from datasets.exceptions import DatasetsError

from asa.data.rows import RequestsError, hub_dataset, read_rows, refuse_half, text_in
from asa.support.parameters import NO, YES

ALPACA_ID = "tatsu-lab/alpaca"
ALPACA, HAND_WRITTEN = "alpaca", "hand-written"  # benchmarks; one of a user's own has its file's name
QUICK_LOOK = ", quick look"  # behind the name of a benchmark of which little was asked
_NO_INPUT = re.compile(r"<?\s*no\s*input\s*>?\.?", re.IGNORECASE)


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
    for path in (annotations, parquet):
        if path and not Path(path).is_file():
            raise RequestsError(f"{path}: no such file; give the path of Alpaca's parquet file and of our annotations.")
    if parquet:
        try:
            rows = load_dataset("parquet", data_files=parquet, split="train")
        except (DatasetsError, ValueError) as error:
            raise RequestsError(f"{parquet}: cannot be read; give Alpaca as a parquet file.") from error
    else:
        rows = hub_dataset(ALPACA_ID, "give its parquet file")
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
    """Requests from JSON lines `{"text": ..., "label": 0 or 1, "domain": ...}`, or from another kind of table.

    Args:
        path: A file, or `hub:owner/name`, as `rows.read_rows` takes them. A label may also be yes or no, true or false.
        domains: Allowed domains; a line may leave its domain out where there is just one. None: any, or none.

    Raises:
        RequestsError: The file is missing or empty, or a row is not such an object.
    """
    requests, name = [], printable_name(Path(path).name)
    for where, number, row in read_rows(path):
        text = text_in(row, where)
        label = str(row.get("label")).strip().lower()
        if label not in YES + NO:
            raise RequestsError(
                f'{where}: "label" must be 1, true or yes (needs a tool) or 0, false or no, not {row.get("label")!r}.'
            )
        domain = row.get("domain")
        if domain is None and domains and len(domains) > 1:
            raise RequestsError(f'{where}: needs a "domain", one of {", ".join(domains)}.')
        if domain is None:  # left out; a table has the column in every row
            domain = domains[0] if domains else ""
        if domains is None and not isinstance(domain, str):
            raise RequestsError(f'{where}: "domain" must be a text, not {domain!r}; leave it out where there is none.')
        refuse_half(domain, where)
        if domains is not None and domain not in domains:
            raise RequestsError(f"{where}: unknown domain {domain!r}; the tools file has {', '.join(domains)}.")
        requests.append(Request(text, int(label in YES), domain, f"{name}:{number}"))
    if not requests:
        raise RequestsError(f"{path}: holds no request; write one JSON object per line.")
    return requests


def printable_name(name: str) -> str:
    """A file's name as text: bytes of it that are not UTF-8, which Python keeps as lone surrogates, are escaped."""
    return name.encode(errors="backslashreplace").decode()


def _own_name(stem: str) -> str:
    """A benchmark's name from its file's, which may be called as one of the project's own benchmarks."""
    return f"own {stem}" if stem.removesuffix(QUICK_LOOK) in (ALPACA, HAND_WRITTEN) else stem


def further_requests(data: str | Path, domains: list[str]) -> list[Request]:
    """The project's own requests in the folder `data`, from which readers learn beside Alpaca's."""
    return [row for name in ("requests.jsonl", "readers.jsonl") for row in load_requests(Path(data, name), domains)]


def choose_requests(
    requests: str, alpaca: str, hub: bool, data: str, domains: list[str]
) -> tuple[list[Request], str, str]:
    """The requests to run on: the user's file, else Alpaca where it is available, else the hand-written set.

    Both of the latter know the annotated domains alone.

    Args:
        requests: The user's file or data set, as `load_requests` takes it, or "".
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
        return given, _own_name(printable_name(Path(requests).stem)), "given"
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
            ALPACA,
            f"read from {alpaca}" if alpaca else f"{ALPACA_ID} from the hub",
        )
    own = load_requests(Path(data) / "requests.jsonl", domains)
    return own, HAND_WRITTEN, "no Alpaca file given and no hub"
