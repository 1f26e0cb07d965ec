"""Trees: a language, that is the texts that may be written, as a small tree of parts.

A tree is built once and read in two ways: `reading` goes through it letter by letter, `lark` writes it as a grammar.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, dataclass_transform

Ranges = tuple[tuple[int, int], ...]  # of code points, both ends included, in order and apart
HALVES = (0xD800, 0xDFFF)  # surrogates: no characters
MOST_TIMES = 10_000  # that a part is repeated
Kind = TypeVar("Kind")


@dataclass_transform(frozen_default=True)
def tree_part(kind: type[Kind]) -> type[Kind]:
    """A frozen dataclass whose hash is worked out once: trees are large, and are looked up all the time."""
    made: Any = dataclass(frozen=True)(kind)
    whole = made.__hash__

    def once(tree: Any) -> int:
        kept = vars(tree)
        if "hash" not in kept:
            kept["hash"] = whole(tree)
        return kept["hash"]

    made.__hash__ = once
    made.__getstate__ = lambda tree: {name: of for name, of in vars(tree).items() if name != "hash"}  # a process' own
    return made


@tree_part
class Text:
    """Exactly this text."""

    text: str


@tree_part
class Token:
    """One token of a model by its id, and the text that it stands for."""

    number: int
    text: str


@tree_part
class Letters:
    """One character out of `ranges`."""

    ranges: Ranges


@tree_part
class Sequence:
    """One part after the other."""

    parts: tuple["Language", ...]


@tree_part
class Choice:
    """One of the parts; of none, there is no text."""

    parts: tuple["Language", ...]


@tree_part
class Repeat:
    """A part, at least `low` and at most `high` times."""

    part: "Language"
    low: int
    high: int


@tree_part
class Both:
    """What is in both languages."""

    one: "Language"
    other: "Language"


@tree_part
class Without:
    """What holds none of the `forbidden` texts; `tail` is the end of what was written."""

    part: "Language"
    forbidden: tuple[str, ...]
    tail: str = ""


@tree_part
class Span:
    """Some of `chunks`, at least one, as they stand side by side.

    Once it has begun, `open` holds the chunks in which it may be, and how many letters of each were written.
    """

    chunks: tuple[str, ...]
    open: frozenset[tuple[int, int]] | None = None


@tree_part
class Members:
    """Members of a list such as arguments, each at most once, with `between` between them.

    Attributes:
        members: What each is, and whether it must be there.
        between: What stands between two.
        any_order: Whether they may stand in any order, not only in this one.
        begun: Whether one was written before.
    """

    members: tuple[tuple["Language", bool], ...]
    between: "Language"
    any_order: bool
    begun: bool = False

    def next(self) -> list[tuple["Language", "Members"]]:
        """Every member that may come next, and what is left then."""
        found = []
        for place, (member, needed) in enumerate(self.members):
            before = self.members[:place] if self.any_order else ()
            rest = Members(before + self.members[place + 1 :], self.between, self.any_order, True)
            found.append((sequence(self.between, member) if self.begun else member, rest))
            if needed and not self.any_order:
                break
        return found

    def complete(self) -> bool:
        """Whether nothing is missing."""
        return not any(needed for _, needed in self.members)


@tree_part
class Lexeme:
    """A part that a lexer takes in one piece, such as a string."""

    part: "Language"


Language = Text | Token | Letters | Sequence | Choice | Repeat | Both | Without | Span | Members | Lexeme
NOTHING = Choice(())  # no text at all
EMPTY = Text("")  # the empty text alone


def sequence(*parts: Language) -> Language:
    """One part after the other, in its simplest form."""
    flat: list[Language] = []
    for part in parts:
        for inner in part.parts if isinstance(part, Sequence) else (part,):
            if isinstance(inner, Text) and flat and isinstance(flat[-1], Text):
                flat[-1] = Text(flat[-1].text + inner.text)
            elif inner != EMPTY:
                flat.append(inner)
    if NOTHING in flat:
        return NOTHING
    return flat[0] if len(flat) == 1 else Sequence(tuple(flat)) if flat else EMPTY


def choice(parts: Iterable[Language]) -> Language:
    """One of the parts, in its simplest form."""
    flat = dict.fromkeys(
        inner for part in parts for inner in (part.parts if isinstance(part, Choice) else (part,)) if inner != NOTHING
    )
    return next(iter(flat)) if len(flat) == 1 else Choice(tuple(flat))


def repeat(part: Language, low: int, high: int) -> Language:
    """A part so many times, in its simplest form; no more than `MOST_TIMES`, where it need not be."""
    times = (low, min(high, max(low, MOST_TIMES)))
    return part if times == (1, 1) else Repeat(part, *times) if high and part != EMPTY else EMPTY


def optional(part: Language) -> Language:
    """A part, or nothing."""
    return repeat(part, 0, 1)


def letters(text: str) -> Letters:
    """One of the characters of `text`."""
    return Letters(union((ord(letter), ord(letter)) for letter in text))


def one_letter(ranges: Ranges) -> Language:
    """One character out of `ranges`, in its simplest form."""
    many = len(ranges) > 1 or any(low < high for low, high in ranges)
    return Letters(ranges) if many else choice(Text(chr(low)) for low, _ in ranges)


def union(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The ranges in order, those that touch joined.

    >>> union([(5, 9), (1, 2), (3, 4)])
    ((1, 9),)
    """
    joined: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def among(letter: str, ranges: Ranges) -> bool:
    """Whether a character is in `ranges`."""
    return any(low <= ord(letter) <= high for low, high in ranges)


def may_hold(language: Language, letter: str) -> bool:
    """Whether a text of the language might hold a character."""
    match language:
        case Text(text) | Token(text=text):
            return letter in text
        case Letters(ranges):
            return among(letter, ranges)
        case Sequence(parts) | Choice(parts):
            return any(may_hold(part, letter) for part in parts)
        case Both(one, other):
            return may_hold(one, letter) and may_hold(other, letter)
        case Repeat(part) | Without(part) | Lexeme(part):
            return may_hold(part, letter)
        case Span(chunks):
            return any(letter in chunk for chunk in chunks)
        case Members(members, between):
            return may_hold(between, letter) or any(may_hold(member, letter) for member, _ in members)


@lru_cache(256)
def without(language: Language, forbidden: tuple[str, ...]) -> Language:
    """A language less what holds one of the `forbidden` texts, in its simplest form."""
    possible = tuple(text for text in forbidden if all(may_hold(language, letter) for letter in text))
    return Without(language, possible) if possible else language


def others(ranges: Ranges) -> Ranges:
    """All characters that are not in `ranges`."""
    edges = [-1, *(edge for pair in union([*ranges, HALVES]) for edge in pair), 0x110000]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple((low + 1, high - 1) for low, high in pairs if low + 1 <= high - 1)


def common(one: Ranges, other: Ranges) -> Ranges:
    """The characters that are in both."""
    return others(union([*others(one), *others(other)]))
