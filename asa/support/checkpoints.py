"""Checkpoints: each expensive stage leaves one file that says what it was made from.

A stage's file holds NumPy arrays and plain JSON values, and the key it depends on: model, data, prompt, settings. A
second run with the same key reads it; with another key, or from a damaged file, the stage runs again. Files appear
whole or not at all; where the disk refuses one, the run goes on with the result. Of several processes the first alone
reads and writes, and all go on with its result. No file is unpickled, and nothing here knows what a stage computes.
"""

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from asa.support.files import Writer, is_first, write_atomic
from asa.support.processes import from_first


class Keepable(Protocol):
    """What can be kept as JSON and made from it again."""

    def to_json(self) -> dict[str, Any]:
        """As a plain object."""
        ...

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        ...


Kind = TypeVar("Kind", bound=Keepable)


class Checkpoints:
    """A folder of stage files.

    Args:
        folder: Where they lie; made when the first is written.

    Attributes:
        seconds: Stage -> seconds it took when it was computed, also where it was reused.
        writer: Writes the files, and knows which could not be written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.seconds: dict[str, float] = {}
        self.writer = Writer()

    def stage(self, name: str, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stage's result, from its file where `key` fits, else computed and kept if the disk allows.

        Args:
            name: File name without ending.
            key: Hash of all that the result depends on; see `key_of`.
            compute: Returns NumPy arrays and JSON values by name.

        Returns:
            What `compute` returned; arrays come back bit for bit, tuples as lists.
        """
        path = self.folder / f"{name}.npz"
        kept = from_first(self._read(path, key) if is_first() else None)
        if kept is not None:
            self.seconds[name] = kept.pop("_seconds")
            print(f"{name}: reused from {path}")
            return kept
        started = time.perf_counter()
        result = from_first(compute())
        self.seconds[name] = round(time.perf_counter() - started, 2)
        print(f"{name}: took {self.seconds[name]:.1f} s")
        arrays: dict[str, Any] = {part: value for part, value in result.items() if isinstance(value, np.ndarray)}
        rest = {part: value for part, value in result.items() if part not in arrays}

        def write(scratch: Path) -> None:
            with scratch.open("wb") as file:
                np.savez(
                    file,
                    __key=np.array(key),
                    __json=np.array(json.dumps(rest | {"_seconds": self.seconds[name]})),
                    **arrays,
                )

        self.writer.write(path, lambda place: write_atomic(place, write))
        return arrays | json.loads(json.dumps(rest))

    def typed(self, kind: type[Kind], name: str, key: str, compute: Callable[[], Kind]) -> Kind:
        """`stage` for an object that knows `to_json` and `from_json`."""
        return kind.from_json(self.stage(name, key, lambda: compute().to_json()))

    def _read(self, path: Path, key: str) -> dict[str, Any] | None:
        if not os.path.exists(path):  # unlike Path's, it raises nothing where the folder is closed to us
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                if str(file["__key"]) != key:
                    return None
                arrays = {part: file[part] for part in file.files if not part.startswith("__")}
                return arrays | json.loads(str(file["__json"]))
        except Exception:  # what a damaged file raises depends on the byte
            warnings.warn(f"{path} is damaged; its stage runs again.", stacklevel=2)
            return None
