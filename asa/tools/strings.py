"""Strings: what a model may write for a string of a JSON schema, in a notation.

A string is escaped as JSON escapes it, so that nothing but its own quote ends it, and no raw line break stands in it.
"""

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from typing import Any

from asa.languages.patterns import ANY, LONGEST, UnusablePattern, pattern_language
from asa.languages.trees import (
    Both,
    Language,
    Lexeme,
    Ranges,
    Span,
    Text,
    choice,
    common,
    letters,
    one_letter,
    others,
    repeat,
    sequence,
    union,
    without,
)
from asa.tools.formats import FORMATS

MOST_PARTS = 5000  # of a schema, each $ref written out


class UnsayableSchema(ValueError):
    """A schema with a keyword that a grammar cannot say; the message is the keyword."""


class RoomError(ValueError):
    """A schema stands for more than is written out; the message says what to do."""


class Room:
    """How many parts of a schema may still be written out: a few lines of it can stand for any number."""

    def __init__(self) -> None:
        self.left = MOST_PARTS

    def take(self) -> None:
        """For one part.

        Raises:
            RoomError: There is none left.
        """
        self.left -= 1
        if self.left < 0:
            raise RoomError(f"its schema has more than {MOST_PARTS} parts, each $ref written out, make it smaller")


@dataclass(frozen=True)
class Notation:
    """How values are written.

    Attributes:
        quotes: What may stand around a string.
        constants: Ways to write `True`, `False` and `None`.
        forbidden: Texts that no string may hold, such as what closes a call.
        request: The words that `x-copy` copies; None: such a string is any text.
        room: For a schema's parts.
    """

    quotes: tuple[str, ...]
    constants: dict[Any, tuple[str, ...]]
    forbidden: tuple[str, ...] = ()
    request: str | None = None
    room: Room = field(default_factory=Room, compare=False)


PYTHONIC = Notation(('"', "'"), {True: ("True", "true"), False: ("False", "false"), None: ("None", "null")})
JSON = Notation(('"',), {True: ("true",), False: ("false",), None: ("null",)})


def escaped(text: str, quote: str) -> str:
    """A text as it stands between two of `quote`."""
    inner = json.dumps(text, ensure_ascii=False)[1:-1]
    return inner if quote == '"' else inner.replace('\\"', '"').replace("'", "\\'")


def quoted(text: str, notation: Notation) -> list[str]:
    """The ways to write a text as a string."""
    return [f"{quote}{escaped(text, quote)}{quote}" for quote in notation.quotes]


@lru_cache(4096)  # a pattern asks for the same few characters a thousand times
def letter(quote: str, ranges: Ranges) -> Language:
    """How one character out of `ranges` is written in a string between two of `quote`."""
    special = union([(0, 31), *letters(quote + "\\").ranges])
    hidden = (chr(point) for low, high in common(ranges, special) for point in range(low, high + 1))
    return choice([one_letter(common(ranges, others(special))), *(Text(escaped(one, quote)) for one in hidden)])


def string(part: dict[str, Any], notation: Notation) -> Language:
    """Strings of a schema, without the notation's forbidden texts.

    With `x-copy` a string is a span of the request; with a format too, one of the request's words that have it, and any
    that has it where the request says none.

    Raises:
        UnsayableSchema: Its pattern or its format cannot be said, or no length fits.
    """
    pattern, name = part.get("pattern"), part.get("format")
    low, high = part.get("minLength", 0), part.get("maxLength")
    if name is not None and name not in FORMATS:
        raise UnsayableSchema(f"format {name}")
    if high is not None and high < low:
        raise UnsayableSchema("minLength above maxLength")
    copied = notation.request if part.get("x-copy") is True else None
    found = said_with_format(name, copied) if name and copied is not None else []
    ways = []
    for quote in notation.quotes:
        limits: list[Language] = [_pattern(pattern, quote)] if pattern else []
        if found:
            limits.append(choice(Text(escaped(text, quote)) for text in found))
        elif name:
            limits.append(_pattern(FORMATS[name], quote))
        elif copied is not None:
            limits.append(Span(tuple(escaped(chunk, quote) for chunk in chunks(copied))))
        if low or high is not None:
            limits.append(repeat(letter(quote, ANY), low, max(low, LONGEST) if high is None else high))
        inner = without(reduce(Both, limits), notation.forbidden) if limits else free_text(quote, notation.forbidden)
        ways.append(sequence(Text(quote), inner, Text(quote)))
    return Lexeme(choice(ways))


@lru_cache(64)
def free_text(quote: str, forbidden: tuple[str, ...]) -> Language:
    """Texts of at most `LONGEST` characters, between two of `quote`, without any of the forbidden ones.

    Where these begin alike, with a character that they hold once, the way into each of them is left letter by letter:
    a lexer takes that far more easily than "all but what holds one of them".
    """
    write, first = partial(letter, quote), forbidden[0][0] if forbidden else ""
    if not forbidden or any(text[0] != first or first in text[1:] for text in forbidden):
        return without(repeat(write(ANY), 0, LONGEST), forbidden)
    begun = dict.fromkeys(text[1:end] for text in forbidden for end in range(1, len(text)))
    turned = []  # begun, and then turned away from
    for beginning in begun:
        onward = "".join(text[len(beginning) + 1] for text in forbidden if text[1:].startswith(beginning))
        turned.append(sequence(Text(first + beginning), write(others(letters(first + onward).ranges))))
    left = choice(Text(first + beginning) for beginning in begun)  # begun, and the next letter begins anew or ends
    unit = choice([write(others(letters(first).ranges)), sequence(repeat(left, 0, LONGEST), choice(turned))])
    return Both(sequence(repeat(unit, 0, LONGEST), repeat(left, 0, LONGEST)), repeat(write(ANY), 0, LONGEST))


@lru_cache(256)
def _pattern(pattern: str, quote: str) -> Language:
    try:
        return pattern_language(pattern, partial(letter, quote))
    except UnusablePattern as error:
        raise UnsayableSchema(f"pattern {pattern} ({error})") from error


def said_with_format(name: str, request: str) -> list[str]:
    """The request's own words that have a format.

    >>> said_with_format("language", "From Spanish to English, please: hola")
    ['Spanish', 'English']
    """
    whole = FORMATS[name].removeprefix("^").removesuffix("$")
    return list(dict.fromkeys(found[0] for found in re.finditer(rf"(?<!\w){whole}(?!\w)", request)))


def chunks(request: str) -> list[str]:
    """A request's words, marks and spaces, of which a copied span is made.

    >>> chunks("Say 'hi there'!")
    ['Say', ' ', "'", 'hi', ' ', 'there', "'", '!']
    """
    return re.findall(r"\w+|\s+|[^\w\s]", request) or [" "]
