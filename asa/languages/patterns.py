"""Patterns: regular expressions as languages, of the texts in which they are found.

A pattern is read by Python's own reader of regular expressions. Look-around, back references and the like are no
languages of this sort and are refused. Nothing repeats without an end: `*` is at most `LONGEST` times.
"""

import re
import sys
from collections.abc import Callable
from functools import cache
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from asa.languages.trees import Language, Ranges, choice, one_letter, others, repeat, sequence, union

LONGEST = 400
ANY: Ranges = others(())  # every character
_LINE: Ranges = others(((10, 10),))  # what `.` stands for


class UnusablePattern(ValueError):
    """A pattern that is no language here; the message names the part."""


def pattern_language(pattern: str, letter: Callable[[Ranges], Language] = one_letter) -> Language:
    """Return the texts in which `pattern` is found, anywhere unless it says `^` and `$`.

    Args:
        pattern: As Python writes it.
        letter: How one character out of ranges is written; in a string, a quote may need a backslash.

    Raises:
        UnusablePattern: It asks for more than a language can say.
    """
    parsed = _parser.parse(pattern)
    if parsed.state.flags != re.UNICODE:
        raise UnusablePattern("flags")
    return _Reader(letter).anywhere(parsed)


@cache
def category(name: str) -> Ranges:
    """The characters of a class such as `\\w`, as Python's regular expressions have them."""
    points = "".join(map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]))
    found = (match.span() for match in re.finditer(f"{name}+", points))
    return union((_point(first), _point(last - 1)) for first, last in found)


def _point(place: int) -> int:
    """The code point at a place among all characters, of which surrogates are none."""
    return place if place < 0xD800 else place + 0x800


_CATEGORIES = {
    ops.CATEGORY_DIGIT: r"\d",
    ops.CATEGORY_NOT_DIGIT: r"\D",
    ops.CATEGORY_SPACE: r"\s",
    ops.CATEGORY_NOT_SPACE: r"\S",
    ops.CATEGORY_WORD: r"\w",
    ops.CATEGORY_NOT_WORD: r"\W",
}


class _Reader:
    def __init__(self, letter: Callable[[Ranges], Language]) -> None:
        self.letter = letter

    def anywhere(self, parsed: Any) -> Language:
        """A whole pattern, with whatever stands around it where it is not anchored."""
        items = list(parsed)
        while len(items) == 1 and items[0][0] is ops.SUBPATTERN and not items[0][1][1] and not items[0][1][2]:
            items = list(items[0][1][3])
        if len(items) == 1 and items[0][0] is ops.BRANCH:
            return choice(map(self.anywhere, items[0][1][1]))
        begins = bool(items) and items[0] in [(ops.AT, ops.AT_BEGINNING), (ops.AT, ops.AT_BEGINNING_STRING)]
        stops = bool(items) and items[-1] in [(ops.AT, ops.AT_END), (ops.AT, ops.AT_END_STRING)]
        inner = items[begins : len(items) - stops]
        free = repeat(self.letter(ANY), 0, LONGEST)
        around = [] if begins else [free], [] if stops else [free]
        return sequence(*around[0], *map(self.one, inner), *around[1])

    def all(self, parsed: Any) -> Language:
        """One item after the other."""
        return sequence(*map(self.one, parsed))

    def one(self, item: tuple[Any, Any]) -> Language:
        """One item of a pattern."""
        kind, given = item
        if kind in (ops.MAX_REPEAT, ops.MIN_REPEAT):
            low, high, part = given
            return repeat(self.all(part), low, max(low, LONGEST) if high is ops.MAXREPEAT else high)
        if kind is ops.BRANCH:
            return choice(map(self.all, given[1]))
        if kind is ops.SUBPATTERN and not given[1] and not given[2]:
            return self.all(given[3])
        return self.letter(_ranges(kind, given))


def _ranges(kind: Any, given: Any) -> Ranges:
    """The characters that one item of a pattern stands for."""
    if kind is ops.LITERAL:
        return ((given, given),)
    if kind is ops.NOT_LITERAL:
        return others(((given, given),))
    if kind is ops.ANY:
        return _LINE
    if kind is ops.RANGE:
        return (given,)
    if kind is ops.CATEGORY and given in _CATEGORIES:
        return category(_CATEGORIES[given])
    if kind is ops.IN:
        negated = given[0] == (ops.NEGATE, None)
        found = union(pair for item in given[negated:] for pair in _ranges(*item))
        return others(found) if negated else found
    raise UnusablePattern(str(kind).lower())
