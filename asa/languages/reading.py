"""Reading: what may follow once the beginning of a text was written, and how it ends soonest.

`after` takes one letter off a language (Brzozowski 1964, "Derivatives of regular expressions"); `shortest` is the text
by which a call can be closed before a token limit cuts it.
"""

from collections import deque
from collections.abc import Iterable
from functools import lru_cache, reduce

from asa.languages.trees import (
    EMPTY,
    NOTHING,
    Both,
    Choice,
    Language,
    Letters,
    Lexeme,
    Members,
    Ranges,
    Repeat,
    Sequence,
    Span,
    Text,
    Token,
    Without,
    among,
    choice,
    common,
    letters,
    others,
    repeat,
    sequence,
)

MOST_CHARACTERS = 10_000  # of the shortest text of a language that can be used
MOST_TRIED = 2000  # beginnings that are tried in search of it


class TooLong(ValueError):
    """The shortest text of a language is too long to be written, or to be found."""


def ends(language: Language) -> bool:
    """Whether nothing need follow."""
    match language:
        case Text(text) | Token(text=text):
            return not text
        case Letters() | Span(open=None):
            return False
        case Sequence(parts):
            return all(map(ends, parts))
        case Choice(parts):
            return any(map(ends, parts))
        case Repeat(part, low):
            return low == 0 or ends(part)
        case Both(one, other):
            return ends(one) and ends(other)
        case Without(part) | Lexeme(part):
            return ends(part)
        case Span(chunks, places):
            return any(at == len(chunks[number]) for number, at in places or ())
        case Members():
            return language.complete()


def after(language: Language, letter: str) -> Language:
    """What may follow once `letter` was written; `NOTHING` where it may not be written."""
    match language:
        case Text(text) | Token(text=text):
            return Text(text[1:]) if text[:1] == letter else NOTHING
        case Letters(ranges):
            return EMPTY if among(letter, ranges) else NOTHING
        case Sequence((first, *rest)):
            begun = sequence(after(first, letter), *rest)
            return choice([begun, after(sequence(*rest), letter)]) if ends(first) else begun
        case Choice(parts):
            return choice(after(part, letter) for part in parts)
        case Repeat(part, low, high):
            return sequence(after(part, letter), repeat(part, max(low - 1, 0), high - 1))
        case Both(one, other):
            left, right = after(one, letter), after(other, letter)
            return NOTHING if NOTHING in (left, right) else Both(left, right)
        case Without(part, forbidden, tail):
            tail, left = tail + letter, after(part, letter)
            if left == NOTHING or tail.endswith(forbidden):
                return NOTHING
            return Without(left, forbidden, _begun(tail, forbidden))
        case Lexeme(part):
            return after(part, letter)
        case Span(chunks, places):
            return _after_span(chunks, places, letter)
        case Members():
            return choice(sequence(after(member, letter), rest) for member, rest in language.next())
    raise TypeError(f"{language!r} is no language")


def _begun(tail: str, forbidden: tuple[str, ...]) -> str:
    """The longest end of `tail` with which a forbidden text begins: nothing else of it matters."""
    ends_of = (tail[at:] for at in range(len(tail)))
    return next((end for end in ends_of if any(text.startswith(end) for text in forbidden)), "")


def _after_span(chunks: tuple[str, ...], places: frozenset[tuple[int, int]] | None, letter: str) -> Language:
    here: Iterable[tuple[int, int]] = ((number, 0) for number in range(len(chunks)))
    if places is not None:
        here = ((number + 1, 0) if at == len(chunks[number]) else (number, at) for number, at in places)
    left = {(number, at + 1) for number, at in here if number < len(chunks) and chunks[number][at] == letter}
    return Span(chunks, frozenset(left)) if left else NOTHING


def after_text(language: Language, text: str) -> Language:
    """What may follow once `text` was written."""
    return reduce(after, text, language)


@lru_cache(4096)
def shortest(language: Language) -> str:
    """The shortest text of a language, or one of them.

    Raises:
        ValueError: There is none.
        TooLong: It has more than `MOST_CHARACTERS`, or is not found among `MOST_TRIED`.
    """
    match language:
        case Text(text) | Token(text=text):
            return text
        case Letters(((low, _), *_)):
            return chr(low)
        case Sequence(parts):
            return _joined("", [shortest(part) for part in parts])
        case Choice((first, *rest)):
            return min(map(shortest, (first, *rest)), key=len)
        case Repeat(part, low):
            return _repeated(shortest(part), low) if low else ""
        case Lexeme(part):
            return shortest(part)
        case Members(members, between, _, begun):
            needed = [shortest(member) for member, needed in members if needed]
            comma = shortest(between)
            return (comma if begun and needed else "") + _joined(comma, needed)
        case Span(chunks, places):
            left = chunks if places is None else [chunks[number][at:] for number, at in places]
            return min(left, key=len)
        case Without(part, forbidden, tail):
            if not any(end in tail + shortest(part) for end in forbidden):
                return shortest(part)
    return _searched(language)


def _joined(between: str, parts: list[str]) -> str:
    _refuse_long(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _repeated(part: str, times: int) -> str:
    _refuse_long(len(part) * times)
    return part * times


def _refuse_long(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise TooLong(f"what its schema asks for takes more than {MOST_CHARACTERS} characters")


@lru_cache(4096)
def longest_way_out(language: Language) -> str:
    """What must be written in the worst case to end a text, wherever in it one is: about as long as it can get."""
    match language:
        case Text(text) | Token(text=text):
            return text
        case Sequence(parts):
            rests = ("".join(map(shortest, parts[place + 1 :])) for place in range(len(parts)))
            return max((longest_way_out(part) + rest for part, rest in zip(parts, rests, strict=True)), key=len)
        case Choice(parts):
            return max(map(longest_way_out, parts), key=len)
        case Repeat(part, low):
            return longest_way_out(part) + _repeated(shortest(part), low - 1)
        case Both(one, other):
            return max(longest_way_out(one), longest_way_out(other), key=len)
        case Without(part) | Lexeme(part):
            return longest_way_out(part)
        case Members(members, between):
            needed = "".join(shortest(between) + shortest(member) for member, needed in members if needed)
            return max((longest_way_out(member) for member, _ in members), key=len) + needed
        case Span(chunks, None):
            return max(chunks, key=len)
    return shortest(language)


def _searched(language: Language) -> str:
    """The shortest text, by trying one letter of every kind after the other."""
    seen, todo = {language}, deque([(language, "")])
    while todo:
        here, text = todo.popleft()
        if ends(here):
            return text
        for letter in sorted({chr(low) for ranges in _first(here) for low, _ in ranges[:3]}):
            left = after(here, letter)
            if left != NOTHING and left not in seen:
                if len(seen) == MOST_TRIED:
                    raise TooLong("no text that fits a string of its schema was found in time")
                seen.add(left)
                todo.append((left, text + letter))
    raise ValueError("no text fits")


def _first(language: Language) -> list[Ranges]:
    """The kinds of characters that a text may begin with."""
    match language:
        case Text(text) | Token(text=text):
            return [letters(text[0]).ranges] if text else []
        case Letters(ranges):
            return [ranges]
        case Sequence((first, *rest)):
            return _first(first) + (_first(sequence(*rest)) if ends(first) else [])
        case Choice(parts):
            return [kind for part in parts for kind in _first(part)]
        case Repeat(part) | Lexeme(part):
            return _first(part)
        case Without(part, forbidden):  # any, and any by which no forbidden text ends
            last = others(letters("".join(text[-1] for text in forbidden)).ranges)
            return [kind for first in _first(part) for kind in (common(first, last), first) if kind]
        case Both(one, other):
            return [kind for a in _first(one) for b in _first(other) if (kind := common(a, b))]
        case Span(chunks, places):
            texts = chunks if places is None else [
                chunks[number][at:] or (chunks[number + 1] if number + 1 < len(chunks) else "") for number, at in places
            ]  # fmt: skip
            return [kind for text in texts for kind in _first(Text(text))]
        case Members():
            return [kind for member, _ in language.next() for kind in _first(member)]
    return []
