"""Lark: a language as the grammar that llguidance reads.

Source of the notation: llguidance's documentation of its Lark dialect (`docs/syntax.md`): lower-case names are rules,
upper-case ones lexemes; `&` and `~` of regular expressions, and `%regex {"substring_chunks": ...}`, are its own.
"""

import json

from asa.languages.trees import (
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
)


def lark(language: Language) -> str:
    """Write a language as a Lark grammar whose first rule is `start`.

    Parts in a `Lexeme` become lexemes, all others rules; equal parts are written once. A choice within a lexeme is a
    lexeme of its own: most are there many times, and llguidance limits how deep one lexeme nests.

    >>> from asa.languages.trees import letters, sequence
    >>> print(lark(sequence(Text("f("), Lexeme(Repeat(letters("01"), 1, 8)), Text(")"))))
    start: "f(" T0 ")"
    T0: (/[0-1]/){1,8}
    """
    writer = _Writer()
    start = writer.rule(language)
    return "\n".join([f"start: {start}", *writer.lines])


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[Language, str] = {}

    def named(self, language: Language, kind: str) -> str:
        """The name under which a language is written."""
        if language not in self.names:
            inner = language.part if isinstance(language, Lexeme) else language
            body = self.lexeme(inner, whole=True) if kind == "T" else self.ways(language)
            self.names[language] = name = f"{kind}{len(self.lines)}"
            self.lines.append(f"{name}: {body}")
        return self.names[language]

    def rule(self, language: Language) -> str:
        """A language where a rule may stand."""
        match language:
            case Lexeme():
                return self.named(language, "T")
            case Members() | Choice():
                return self.named(language, "r")
            case Sequence(parts):
                return " ".join(map(self.rule, parts))
            case Repeat(part, low, high):
                return f"({self.rule(part)}){{{low},{high}}}"
            case Text(text):
                return _quoted(text)
            case Token(number):
                return f"<[{number}]>"
        raise TypeError(f"{language!r} can stand in a Lexeme only")

    def ways(self, language: Language) -> str:
        """The ways to go on in a choice, or among members."""
        if isinstance(language, Choice):
            return " | ".join(map(self.rule, language.parts))
        assert isinstance(language, Members)
        ways = [f"{self.rule(member)} {self.rule(rest)}" for member, rest in language.next()]
        return " | ".join([*([_quoted("")] if language.complete() else []), *ways])

    def lexeme(self, language: Language, whole: bool = False) -> str:
        """A language as a regular expression, the `whole` of a lexeme or a part of it."""
        match language:
            case Choice() if not whole:
                return self.named(Lexeme(language), "T")
            case Text(text):
                return _quoted(text)
            case Letters(ranges):
                return f"/[{_class(ranges)}]/"
            case Sequence(parts):
                return " ".join(map(self.lexeme, parts))
            case Choice(parts):
                return f"({' | '.join(map(self.lexeme, parts))})"
            case Repeat(part, low, high):
                return f"({self.lexeme(part)}){{{low},{high}}}"
            case Both(one, other):
                return f"({self.named(Lexeme(one), 'T')} & {self.named(Lexeme(other), 'T')})"
            case Without(part, forbidden, ""):
                texts = "|".join(map(escaped, forbidden))
                return f"({self.named(Lexeme(part), 'T')} & ~/(?s:.*)({texts})(?s:.*)/)"
            case Span(chunks, None):
                spans = f"S{len(self.lines)}"
                self.lines.append(f"{spans}: %regex {json.dumps({'substring_chunks': chunks}, ensure_ascii=False)}")
                return f"({spans} & /(?s:.+)/)"
        raise TypeError(f"{language!r} cannot stand in a Lexeme")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def escaped(text: str) -> str:
    """A text within a regular expression."""
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):x}}}" for letter in text)


def _class(ranges: Ranges) -> str:
    """Ranges within a class of a regular expression."""

    def letter(point: int) -> str:
        return chr(point) if point < 128 and chr(point).isalnum() else f"\\x{{{point:x}}}"

    return "".join(letter(low) if low == high else f"{letter(low)}-{letter(high)}" for low, high in ranges)
