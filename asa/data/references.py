"""References: what a right call of a request's tool gives, written by hand.

A reference belongs to a request's text, so it holds wherever the text comes from. Alpaca's texts are named by row and
hash alone. Nothing is judged here.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from asa.data.requests import RequestsError


@dataclass(frozen=True)
class Reference:
    """What is right for one request; only what its domain asks for is filled.

    Attributes:
        source: The request's, e.g. "alpaca:31" or "requests.jsonl:5".
        answers: Numbers, each of which is a right result; a whole one is exact, any other is rounded.
        spans: `[start, end)` in characters of the text, each of which is what is to be translated.
        languages: English names of the languages it may go into; empty where any other will do.
        outputs: Texts, one of which a right program prints.
    """

    source: str
    answers: tuple[float, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    languages: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def text_key(text: str) -> str:
    """What a reference names its request's text by: 12 hex digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_references(path: str | Path) -> dict[str, Reference]:
    """References by `text_key` of their request's text.

    Raises:
        RequestsError: The file cannot be read, or a line of it is no reference.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise RequestsError(f"{path} cannot be read as UTF-8: take the file that came with the project.") from error
    references = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            references[row["sha256_12"]] = Reference(
                row["source"],
                tuple(row.get("answers", ())),
                tuple((start, end) for start, end in row.get("spans", ())),
                tuple(row.get("languages", ())),
                tuple(row.get("outputs", ())),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise RequestsError(
                f"{path} line {number}: not a reference; write source, sha256_12, and answers, spans or outputs."
            ) from error
    return references
