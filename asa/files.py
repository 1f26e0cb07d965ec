"""Files: hashes, atomic writes, and the one base class of errors that a user can mend.

A file appears whole or not at all, and of several processes the first alone writes. Nothing here knows what a file
holds, and nothing loads torch.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERSION = "0.2.0"  # of the package; saved adapters say which wrote them
CHECKPOINT_FORMAT = 2  # raise it when a stage comes to hold something else


class UserError(ValueError):
    """Something that the user can mend; the message is one sentence that names the thing at fault and what to do."""


def is_first() -> bool:
    """Whether this is the first of several processes, by the launcher's word alone: asking makes no contact."""
    return os.environ.get("RANK", "0") == "0"


def key_of(*parts: Any) -> str:
    """A short hash of JSON-like parts, the same in every process.

    >>> key_of("a", 1) == key_of("a", 1) != key_of("a", 2)
    True
    """
    return hashlib.sha256(json.dumps([CHECKPOINT_FORMAT, parts], sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_atomic(path: str | Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; on an error nothing changes.

    Of several processes only the first writes.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    if not is_first():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity, which JSON does not have, become null."""
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    write_atomic(path, lambda scratch: scratch.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8"))
