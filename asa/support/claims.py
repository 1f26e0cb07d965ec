"""Claims: one process at a time works in a folder. A claim ends with its process, however that ends; no file is left.

Where the system knows no such locks, as Windows or some network disks, nothing is claimed and nothing refused.
"""

import contextlib
import os
from pathlib import Path

from asa.support.files import UserError, is_first

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CLAIMED: dict[str, int] = {}  # folder -> its descriptor, which the lock hangs on


class ClaimError(UserError):
    """Another process works in a folder; the message says what to do."""


def claim(folder: str | Path) -> None:
    """Keep a folder for this process, and make it where it is missing; of several processes the first alone does.

    Raises:
        ClaimError: Another process keeps it.
    """
    if fcntl is None or not is_first():
        return
    with contextlib.suppress(OSError):  # what cannot be made or opened is told by the first file that is written
        os.makedirs(folder, exist_ok=True)
        place = os.path.realpath(folder)
        if place in _CLAIMED and os.path.samestat(os.fstat(_CLAIMED[place]), os.stat(place)):
            return
        descriptor = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise ClaimError(
                f"{folder} is in use by another run: wait until that has ended, or choose another output folder."
            ) from error
        except OSError:
            os.close(descriptor)
            raise
        _CLAIMED[place] = descriptor
