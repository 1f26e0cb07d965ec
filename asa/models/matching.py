"""Matching: a call held to its grammar, token by token, from behind the trigger to its end.

The model's own choice is taken wherever the grammar allows it; only where it is refused is the vocabulary masked. When
the tokens left are just enough to end the call, it is ended. Whether to call is never touched. Source of the
matcher: llguidance, which need only be installed where a grammar is asked for.
"""

import copy
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from asa.languages.lark import lark
from asa.languages.reading import TooLong, after_text, longest_way_out, shortest
from asa.languages.trees import NOTHING, Language, Text, Token, sequence
from asa.models.answers import trigger_test
from asa.models.profiles import Profile
from asa.support.files import UserError
from asa.tools.definitions import Tool
from asa.tools.grammar import call_language

SPARE = 4  # tokens: a character that is written in several must be finished before a call can be ended
FUEL = 20_000_000  # of llguidance's lexer: a pattern that must hold no marker takes more than it grants
_TABLES: "weakref.WeakKeyDictionary[Any, Any]" = weakref.WeakKeyDictionary()  # tokenizer -> llguidance's table


class GrammarError(UserError):
    """Calls cannot be held to a grammar here; the message says what to do."""


def token_table(tokenizer: Any) -> Any:
    """llguidance's table of a tokenizer's tokens, made once (about a second) and kept as long as the tokenizer.

    Raises:
        GrammarError: llguidance is not installed, or the tokenizer is no fast one.
    """
    if tokenizer not in _TABLES:
        try:
            from llguidance.hf import from_tokenizer
        except ImportError as error:
            raise GrammarError("calls under a grammar need llguidance: pip install llguidance.") from error
        try:
            _TABLES[tokenizer] = from_tokenizer(tokenizer, n_vocab=len(tokenizer))
        except ValueError as error:
            raise GrammarError(f"calls under a grammar need a fast tokenizer ({error}).") from error
    return _TABLES[tokenizer]


def marker(tokenizer: Any, text: str) -> Text | Token:
    """What opens or closes a call, as a language: one special token by its id, or letters."""
    pieces = tokenizer(text, add_special_tokens=False)["input_ids"]
    special = len(pieces) == 1 and pieces[0] in tokenizer.all_special_ids
    return Token(pieces[0], text) if special else Text(text)


class CallGrammar:
    """The grammars of one model's calls.

    Args:
        tokenizer: Of the model; a fast one.
        profile: What opens and closes a call.
        opened: The tag that the prompt has opened (`Prompter.opened`).
        form: As in `grammar.call_grammar`.

    Raises:
        GrammarError: As `token_table`.
    """

    def __init__(self, tokenizer: Any, profile: Profile, opened: str = "", form: str = "pythonic"):
        self.table, self.form, self.markers = token_table(tokenizer), form, profile.markers
        self.tokenizer, self.trigger = tokenizer, profile.trigger
        self.triggered = trigger_test(tokenizer, profile.trigger, opened, profile.call_end)
        pieces = tokenizer(profile.trigger, add_special_tokens=False)["input_ids"]
        last = profile.trigger[-1]
        known = tokenizer.get_vocab().items()
        self._completing = {pieces[0]} if len(pieces) == 1 else {number for text, number in known if last in text}
        self._recent = len(pieces) + 2
        self.end = marker(tokenizer, profile.call_end)
        self._made = lru_cache(1024)(self._make)

    def begin(self, said: list[int], tools: Mapping[str, Tool], request: str) -> "CallMatcher | None":
        """The matcher of the call that the last of the generated ids `said` has opened; None if it has opened none.

        Where that token goes on, behind the trigger, as no call can, it is replaced in `said` by one that does not.

        Raises:
            ToolsError: As `grammar.call_grammar`.
        """
        if said[-1] not in self._completing:
            return None
        recent, last = (
            self.tokenizer.decode(ids, skip_special_tokens=False) for ids in (said[-self._recent :], said[-1:])
        )
        _, found, behind = recent.rpartition(self.trigger)
        if not found or len(behind) >= len(last) or not self.triggered(said):
            return None
        copies = any("x-copy" in str(tool.parameters) for tool in tools.values())
        language, first, tight = self._made(_Tools(tools), request if copies else "")
        matcher = CallMatcher(self.table, language, first.deep_copy(), tight)
        if behind and not matcher.write(behind):
            said[-1], *more = self.table.tokenize_str(last.removesuffix(behind))
            return None if more else matcher
        return matcher

    def _make(self, tools: "_Tools", request: str) -> tuple[Language, Any, int]:
        """A grammar as a language, its matcher, and the tokens left from which on its end must be looked to."""
        from llguidance import LLMatcher, LLParserLimits

        language = sequence(call_language(tools.by_name, self.form, request, self.markers), self.end)
        limits = LLParserLimits(initial_lexer_fuel=FUEL, step_lexer_fuel=FUEL)
        matcher = LLMatcher(self.table, LLMatcher.grammar_from_lark(lark(language)), limits=limits)
        if matcher.is_error():
            raise GrammarError(f"llguidance refuses the grammar of {', '.join(tools.by_name)}: {matcher.get_error()}")
        worst = self.table.tokenize_str(longest_way_out(language), parse_special=True)
        return language, matcher, len(worst) + 2 * SPARE


class _Tools:
    """Tools as a key: the same objects are the same."""

    def __init__(self, tools: Mapping[str, Tool]):
        self.by_name = tools

    def __hash__(self) -> int:
        return hash(tuple(map(id, self.by_name.values())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tools) and [*map(id, self.by_name.values())] == [*map(id, other.by_name.values())]


class CallMatcher:
    """One call as it is written.

    Args:
        table: Of `token_table`.
        language: What may be written, the end of the call included.
        matcher: llguidance's, at the beginning of that.
        tight: With so many tokens left, or fewer, it is made sure that the call can still be ended.
    """

    def __init__(self, table: Any, language: Language, matcher: Any, tight: int):
        self.table, self.matcher, self.tight = table, matcher, tight
        self._left, self._read = language, 0  # what may follow the first `_read` bytes of `_written`
        self._written = b""
        self._ahead: tuple[bytes, Language] = (b"", language)  # what may follow another token, looked at before
        self._ending: list[int] = []  # tokens that end the call, once it must be ended

    @property
    def ended(self) -> bool:
        """Whether the call is written to its end."""
        return self.matcher.is_stopped() and not self.matcher.is_error()

    def write(self, text: str) -> bool:
        """Go on by a text that stands there already; whether the grammar allows it."""
        tokens = self.table.tokenize_str(text)
        if self.matcher.validate_tokens(tokens) < len(tokens):
            return False
        for token in tokens:
            self.take(token)
        return True

    def token(self, likeliest: int, logits: torch.Tensor, left: int) -> int:
        """Take the next token: the likeliest that the grammar allows, with which the call can still be ended.

        Args:
            likeliest: The model's own choice.
            logits: `[vocabulary]`, read only if that is refused.
            left: Tokens that may still be written, this one included.
        """
        if not self._ending and not self.matcher.validate_tokens([likeliest]):
            likeliest = int(logits.masked_fill(~self.mask(len(logits)).to(logits.device), -torch.inf).argmax())
        if not self._ending and left <= self.tight and not self.can_end(likeliest, left - 1):
            self._ending = self.ending()
        return self.take(self._ending.pop(0) if self._ending else likeliest)

    def mask(self, size: int) -> torch.Tensor:
        """Which of the first `size` tokens may come next, `[size]` bool."""
        bits = np.unpackbits(np.frombuffer(self.matcher.compute_bitmask(), np.uint8), bitorder="little")[:size]
        return torch.from_numpy(np.pad(bits, (0, size - len(bits))).astype(bool))

    def can_end(self, token: int, left: int) -> bool:
        """Whether `left` tokens behind `token` are enough to end the call."""
        self._catch_up()
        more = self.table.decode_bytes([token])
        try:
            after = after_text(self._left, self._rest(more))
        except UnicodeDecodeError:
            return self._read < len(self._written)  # within a character: it must be finished first
        self._ahead = self._written + more, after
        way_out = None if after == NOTHING else self._way_out(after)
        return way_out is not None and len(way_out) <= left

    def ending(self) -> list[int]:
        """The tokens that end the call soonest, none if they take too long to be found.

        What was written must be whole characters.
        """
        self._catch_up()
        return self._way_out(self._left) or []

    def copy(self) -> "CallMatcher":
        """The same call, to go on apart."""
        other = copy.copy(self)
        other.matcher, other._ending = self.matcher.deep_copy(), list(self._ending)
        return other

    def _way_out(self, language: Language) -> list[int] | None:
        """The tokens of a language's shortest text; None if it takes too long to be found."""
        try:
            return self._tokens(shortest(language))
        except TooLong:
            return None

    def _tokens(self, text: str) -> list[int]:
        return self.table.tokenize_str(text, parse_special=True)

    def _rest(self, more: bytes = b"") -> str:
        return (self._written[self._read :] + more).decode()

    def _catch_up(self) -> None:
        """Bring `_left` up to what was written, but for a character's beginning."""
        written, after = self._ahead
        if written != self._written:
            try:
                after = after_text(self._left, self._rest())
            except UnicodeDecodeError:
                return
        self._left, self._read = after, len(self._written)

    def take(self, token: int) -> int:
        """Go on by a token, which the grammar must allow."""
        if not self.matcher.consume_token(token):
            raise GrammarError(f"llguidance gave a call up: {self.matcher.get_error().splitlines()[0]}")
        self._written += self.table.decode_bytes([token])
        return token
