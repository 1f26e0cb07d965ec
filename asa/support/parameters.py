"""Parameters: what a user may write in the form or on the command line, and what the run reads it as.

A form gives `"6"` where a number is meant, Python gives a `Path` or a list, and a cleared field gives nothing. What is
clear is converted, empty or `None` means the default, and anything else is refused before any work. Nothing is loaded
here, and only trying out the output folder touches a disk.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from asa.support.files import UserError, is_first

LARGEST_NUMBER = 2**32 - 1  # the largest seed that NumPy takes
YES, NO = ("true", "yes", "on", "1", "1.0"), ("false", "no", "off", "0", "0.0")


class ParameterError(UserError):
    """A parameter has a value of no use; the message names both and says what to give."""


def whole_number(name: str, value: Any, default: int) -> int:
    """A whole number from 0 to `LARGEST_NUMBER`, also from a text or a float.

    Raises:
        ParameterError: It is none.

    >>> whole_number("SEED", "3.0", 0), whole_number("SEED", None, 0)
    (3, 0)
    """
    if _is_empty(value):
        return default
    number = _whole(value)
    if number is None:
        raise ParameterError(f"{name} is {value!r}: give a whole number from 0 to {LARGEST_NUMBER}.")
    return number


def yes_or_no(name: str, value: Any, empty: bool = False) -> bool:
    """True or False, also from a text or from 0 and 1; nothing means `empty`.

    Raises:
        ParameterError: It is neither.

    >>> yes_or_no("CHAT", "False")
    False
    """
    text = "" if value is None else str(value).strip().lower()
    if not text:
        return empty
    if text not in YES + NO:
        raise ParameterError(f"{name} is {value!r}: give True or False.")
    return text in YES


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    """One of some words, in any case; empty means the first, and so does "none" where that is "".

    Raises:
        ParameterError: It is another.

    >>> one_of("PROOF", "All", ("", "steering", "all"))
    'all'
    """
    word = "" if value is None or value is False else str(value).strip().lower()
    if not word or (word == "none" and not allowed[0]):
        return allowed[0]
    if word not in allowed:
        words = " or ".join(filter(None, allowed)) + ("" if allowed[0] else ", or leave it empty")
        raise ParameterError(f"{name} is {value!r}: give {words}.")
    return word


def given_path(name: str, value: Any, default: str = "") -> str:
    """A path without blanks around it, `~` as the home folder.

    Raises:
        ParameterError: It is neither a text nor a `Path`, or there is no such home folder.

    >>> given_path("TOOLS", Path("data") / "tools.json"), given_path("OUT", " ", "outputs")
    ('data/tools.json', 'outputs')
    """
    if _is_empty(value):
        return default
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ParameterError(f"{name} is {value!r}: give a text.")
    path = os.path.expanduser(path.strip())
    if path.startswith("~") and not os.path.lexists(path):
        raise ParameterError(f"{name} is {value!r} and there is no such home folder: give another path.")
    return path


def given_layers(name: str, value: Any) -> str:
    """Layers separated by commas, each once, from such a text, a number or a list; "" where none is named.

    Raises:
        ParameterError: Something in it is no layer.

    >>> given_layers("LAYERS", [8, 12]), given_layers("LAYERS", " 8, 12 "), given_layers("LAYERS", 8)
    ('8,12', '8,12', '8')
    """
    if _is_empty(value):
        return ""
    words = [value]
    if isinstance(value, str):
        words = re.findall(r"[^\s,;()[\]]+", value)
    elif isinstance(value, Iterable) and not isinstance(value, bytes | dict):
        words = list(value)
    layers = [_whole(word) for word in words]
    if None in layers:
        raise ParameterError(
            f"{name} is {value!r}: give layers, counted from 0, with commas between, such as 8,12, or leave it empty."
        )
    return ",".join(str(layer) for layer in dict.fromkeys(layers))


def output_folder(name: str, value: Any, default: str, parts: tuple[str, ...] = ()) -> str:
    """A folder that can be written, as can its `parts`; what trying it out makes is gone again.

    Raises:
        ParameterError: It is no path, there is a file in its place, or it cannot be written.
    """
    folder = given_path(name, value, default)
    if is_first():  # no other process writes
        for path in (Path(folder), *(Path(folder, part) for part in parts)):
            _try_out(name, path)
    return folder


def _try_out(name: str, folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(
            f"{name}: {str(folder)!r} is no folder that can be written ({reason}): give another one."
        ) from error
    finally:
        for path in missing:
            with contextlib.suppress(OSError, ValueError):
                path.rmdir()


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _whole(value: Any) -> int | None:
    """The whole number from 0 to `LARGEST_NUMBER` that a value stands for, or None."""
    with contextlib.suppress(InvalidOperation):
        number = Decimal(str(value).strip())
        if number.is_finite() and 0 <= number <= LARGEST_NUMBER and number == number.to_integral_value():
            return int(number)
    return None
