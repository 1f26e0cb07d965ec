"""Rows: labelled requests as they stand in a file or on the hub, before they are understood.

JSON lines, JSON, CSV and TSV (as Excel writes them too), Parquet, text, or a data set of the hub. A row is a mapping
from column to value, with the place that errors name. What a label means is `requests`' business.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError

from asa.support.files import UserError, half_character
from asa.support.hub import hub_sentence, said_by

HUB = "hub:"
DELIMITERS = "\t;,"  # Excel writes a semicolon where the comma is the decimal sign
NEEDED = ("text", "label")

Row = tuple[str, int, dict[str, Any]]  # place, number, columns


class RequestsError(UserError):
    """Requests cannot be used; the message names the file, the row and what to do."""


def read_rows(path: str | Path, needed: Sequence[str] = NEEDED) -> Iterator[Row]:
    """The rows of a file, by what its name ends in, or of `hub:owner/name`, whose split is `train`.

    Args:
        path: The file or data set.
        needed: The columns that a table must have.

    Yields:
        (the row's place, as errors name it; its number, from 1; its columns).

    Raises:
        RequestsError: There is no such file or data set, or it cannot be read.
    """
    name = str(path)
    if name.startswith(HUB):
        yield from _hub_rows(name.removeprefix(HUB))
        return
    path = Path(path)
    if not path.is_file():
        raise RequestsError(f"{path}: no such file; give a file of JSON lines with text, label and domain.")
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path)
        return
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestsError(f"{path} cannot be read ({error.strerror}): make it readable.") from error
    if kind in (".csv", ".tsv"):
        yield from _table_rows(path, content, needed)
    elif kind == ".txt":
        lines = enumerate(_decoded(path, content).splitlines(), 1)
        yield from ((f"{path} line {number}", number, {"text": line}) for number, line in lines if line.strip())
    elif kind == ".json":
        yield from _json_rows(path, content)
    else:
        yield from _json_lines(path, content)


def text_in(row: dict[str, Any], where: str) -> str:
    """The text of a row.

    Raises:
        RequestsError: It has none, or half a character is in it.
    """
    if not isinstance(row.get("text"), str) or not row["text"].strip():
        raise RequestsError(f'{where}: needs a non-empty "text".')
    refuse_half(row["text"], where)
    return row["text"]


def refuse_half(text: object, where: str) -> None:
    """Refuse a text with half a character in it, which no file can hold.

    Raises:
        RequestsError: There is one.
    """
    if half := half_character(str(text)):
        raise RequestsError(f"{where}: {half} is half a character; write the whole character, or remove it.")


def _json_lines(path: Path, content: bytes) -> Iterator[Row]:
    for number, raw in enumerate(content.split(b"\n"), 1):
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
        yield where, number, row if isinstance(row, dict) else {}


def _json_rows(path: Path, content: bytes) -> Iterator[Row]:
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RequestsError(f"{path}: not JSON ({error}); write a JSON list of objects, or JSON lines.") from None
    if not isinstance(rows, list):
        raise RequestsError(f"{path}: holds no list; write a JSON list of objects, or name a file of lines .jsonl.")
    for number, row in enumerate(rows, 1):
        yield f"{path} entry {number}", number, row if isinstance(row, dict) else {}


def _table_rows(path: Path, content: bytes, needed: Sequence[str]) -> Iterator[Row]:
    """CSV with a header, in UTF-8, in Excel's UTF-16 or, where it is neither, in cp1252."""
    text = _decoded(path, content)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text, needed))
    try:
        header = [name.strip().lower() for name in next(reader)]
        for number, values in enumerate(reader, 2):
            if not any(value.strip() for value in values):
                continue
            where = f"{path} row {number}"
            if len(values) > len(header):
                raise RequestsError(
                    f"{where}: {len(values)} columns, where the header has {len(header)}; put the text in quotes."
                )
            yield where, number, {name: value for name, value in zip(header, values, strict=False) if value != ""}
    except csv.Error as error:
        raise RequestsError(f"{path} row {reader.line_num}: no CSV ({error}); save the table again.") from None


def _decoded(path: Path, content: bytes) -> str:
    encodings = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise RequestsError(f"{path}: neither UTF-8 nor what Excel writes; save the file as UTF-8.")


def _delimiter(path: Path, text: str, needed: Sequence[str]) -> str:
    header = (text.splitlines() or [""])[0]
    for delimiter in DELIMITERS:
        names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
        if all(name in names for name in needed):
            return delimiter
    raise RequestsError(
        f"{path} row 1: needs the columns {' and '.join(needed)}, and has {header[:80]!r}; name them so."
    )


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        rows = load_dataset("parquet", data_files=str(path), split="train")
    except (DatasetsError, ValueError, OSError) as error:
        raise RequestsError(f"{path}: cannot be read ({said_by(error)}); save it as Parquet again.") from error
    for number, row in enumerate(rows, 1):
        yield f"{path} row {number}", number, row


def _hub_rows(name: str) -> Iterator[Row]:
    for number, row in enumerate(hub_dataset(name, "give a file"), 1):
        yield f"{HUB}{name} row {number}", number, row


def hub_dataset(name: str, instead: str) -> Dataset:
    """The `train` split of a data set of the hub; `instead` says what else the user may do.

    Raises:
        RequestsError: The hub does not give it.
    """
    try:
        return load_dataset(name, split="train")
    except Exception as error:  # the hub's library, datasets and what they fetch with raise anything
        other = f"{name} cannot be loaded ({said_by(error)}); {instead}."
        raise RequestsError(hub_sentence(name, error, instead=instead) or other) from error
