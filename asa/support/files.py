"""Files: hashes, atomic writes, and the one base class of errors that a user can mend.

A file appears whole or not at all, and of several processes the first alone writes. `Writer` lets a run go on where
the disk refuses a file, and tries again at its end, there and elsewhere. Nothing here knows what a file holds, and
nothing loads torch.
"""

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

VERSION = "0.3.0"  # of the package; saved adapters say which wrote them
CHECKPOINT_FORMAT = 2  # raise it when a stage comes to hold something else
HOST = re.sub(r"[^\w.-]", "_", platform.node())  # a disk may be several machines'
STOPPED = "stopped: start it again, and it goes on behind the last stage that it finished."
FULL = {os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT)}  # what a disk without room says


class UserError(ValueError):
    """Something that the user can mend; the message is one sentence that names the thing at fault and what to do."""


def shipped(name: str) -> str:
    """Where a file of the project is: beside the package or where it was installed; `name` itself if at neither."""
    places = (Path(__file__).parents[2], Path(sys.prefix, "share", "liquid-asa"))
    return next((str(place / name) for place in places if (place / name).exists()), name)


def half_character(text: str) -> str:
    """The first lone surrogate of `text`, escaped: half a character, which JSON can name and no model reads; or "".

    >>> half_character("a" + chr(0xD83D)), half_character("a")
    ('\\\\ud83d', '')
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return ascii(text[error.start])[1:-1]
    return ""


def in_short(words: str) -> str:
    """Others' words on one line, without their middle where they quote too much, for a sentence that quotes them.

    >>> in_short("two\\nlines"), len(in_short("x" * 1000))
    ('two lines', 305)
    """
    line = " ".join(words.split())
    return line if len(line) <= 300 else f"{line[:150]} ... {line[-150:]}"


def errors_in_one_sentence() -> None:
    """Let a script end in one sentence where the user can mend something, or stops it; faults keep their traceback."""

    def said(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, UserError):
            print(f"error: {error}", file=sys.stderr)
        elif issubclass(kind, KeyboardInterrupt):
            print(f"\n{STOPPED}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = said


def is_first() -> bool:
    """Whether this is the first of several processes, by the launcher's word alone: asking makes no contact."""
    return os.environ.get("RANK", "0") == "0"


def key_of(*parts: Any) -> str:
    """A short hash of JSON-like parts, the same in every process.

    >>> key_of("a", 1) == key_of("a", 1) != key_of("a", 2)
    True
    """
    return hashlib.sha256(json.dumps([CHECKPOINT_FORMAT, parts], sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_key() -> str:
    """A short hash of the package's own code."""
    package = Path(__file__).parents[1]
    return key_of(*(path.read_text("utf-8") for path in sorted(package.rglob("*.py"))))


def write_atomic(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; on an error nothing changes.

    Of several processes only the first writes.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    write_together({path: write})


def write_together(files: dict[str | Path, Callable[[Path], object]]) -> None:
    """`write_atomic` for files that belong together: none is put in place before all are filled.

    Raises:
        OSError: The disk is full or a folder cannot be written.
    """
    if not is_first():
        return
    scratches: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{os.getpid()}.{HOST}-{path.name}")
            scratches[scratch] = path
            _remove_left_behind(path)
            write(scratch)
        for scratch, path in scratches.items():
            os.replace(scratch, path)
    finally:
        for scratch in scratches:
            with contextlib.suppress(OSError):  # the one that stopped the writing is the one to tell
                scratch.unlink(missing_ok=True)


def _remove_left_behind(path: Path) -> None:
    """Remove what processes of this machine that were killed had begun to write in place of `path`."""
    rest = f".{HOST}-{path.name}"
    for scratch in path.parent.glob(f".*{glob.escape(rest)}"):
        number = scratch.name[1:].removesuffix(rest)
        if number.isdecimal() and not _runs(int(number)):
            with contextlib.suppress(OSError):
                scratch.unlink()


def _runs(number: int) -> bool:
    """Whether a process of this number runs, on this machine; where that cannot be asked, it does."""
    if os.name == "nt":
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def json_text(value: Any) -> str:
    """`value` as indented JSON; NaN and infinity, which JSON does not have, become null."""
    plain = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(plain, indent=2) + "\n"


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as `json_text`, atomically."""
    write_atomic(path, lambda scratch: scratch.write_text(json_text(value), encoding="utf-8"))


class Writer:
    """Writes what a run leaves; a file that the disk refuses is named and remembered, and the run goes on.

    Attributes:
        refused: Path -> why, of what could not be written.
    """

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        self._writes: dict[str, Callable[[str | Path], object]] = {}  # path -> what writes it, also anywhere else
        self._there: dict[str, None] = {}  # what has been seen in its place

    def write(self, path: str | Path, write: Callable[..., object], *given: Any) -> None:
        """Call `write(*given, path)`; an OSError of it becomes a sentence on stderr. The first process alone writes."""
        if not is_first():
            return
        self._writes[str(path)] = functools.partial(write, *given)
        self._try(path)
        if str(path) in self.refused:
            print(
                f"{path} could not be written ({self.refused[str(path)]}); the run goes on without it.", file=sys.stderr
            )

    def finish(self) -> None:
        """Write once more what was refused or has been removed since, and end the run, if need be with an error.

        Raises:
            UserError: Something could not be written; the message names it and says what to do.
        """
        removed = [path for path in self._there if not os.path.exists(path)]
        asked = [*removed, *self.refused]
        for path in list(self._writes if removed else self.refused):  # with one file its neighbours may be gone
            self._try(path)
        if written := [path for path in asked if path not in self.refused]:
            print(f"{', '.join(written)} had been refused or removed during the run; written now.", file=sys.stderr)
        if not self.refused:
            self._writes.clear()
            self._there.clear()
            return
        missing = {why: [path for path in self.refused if self.refused[path] == why] for why in self.refused.values()}
        named = "; ".join(f"{', '.join(paths)} ({why})" for why, paths in missing.items())
        folder = next(place for place in Path(next(iter(self.refused))).parents if os.path.exists(place))
        free = f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB are free"
        remedy = (
            f"free some space on the disk of {folder}, where {free},"
            if FULL & missing.keys()
            else f"make {folder} writable or give another output folder ({free} on this one's disk)"
        )
        raise UserError(
            f"not everything could be written, missing: {named}: {remedy} and run again; {self._saved_elsewhere()}"
            "the stages that were written are reused."
        )

    def _try(self, path: str | Path) -> None:
        try:
            self._writes[str(path)](path)
        except OSError as error:
            self.refused[str(path)] = error.strerror or str(error)
        else:
            self.refused.pop(str(path), None)
            if os.path.exists(path):  # a path may stand for several
                self._there[str(path)] = None

    def _saved_elsewhere(self) -> str:
        """Write what was refused among the system's temporary files; where it lies, or "" if that fails too."""
        try:
            above = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in self.refused])
            folder = tempfile.mkdtemp(prefix="asa-")
        except OSError:
            return ""
        for path in self.refused:
            with contextlib.suppress(OSError):
                self._writes[path](Path(folder, os.path.relpath(path, above)))
        if any(path.is_file() for path in Path(folder).rglob("*")):
            return f"what could be saved of {above} lies in {folder}, and "
        shutil.rmtree(folder, ignore_errors=True)
        return ""
