"""Decoding: greedy answers of many rows at once, where rows that have ended make room for the next.

Rows join with their last prompt token, at which a push, if there is one, is added. From then on all step together;
what a row says depends on no other row, up to rounding. Few rows cost nearly as much time as many, so that the last
rows of one batch do not go on alone. Nothing is chosen, gated or scored here.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from asa.engine.forward import PrefixedModel
from asa.engine.kv_cache import give_room, keep_rows, line_up
from asa.models.layout import block_output, decoder_layers, hooked
from asa.models.matching import CallMatcher

COMPACT_BELOW = 0.9  # share of unfinished rows below which finished ones are dropped
JOIN_BELOW = 80  # rows under way, below which others may join
MOST_COLUMNS = 40960  # cached tokens of all rows, padding and the tokens to come included: bounds the cache's memory


Name = TypeVar("Name", bound=Hashable)


@dataclass
class Rows(Generic[Name]):
    """Rows side by side, one token of each about to be run.

    Attributes:
        names: What tells them apart, `[B]`.
        tokens: `[B, 1]`, the tokens to run.
        positions: `[B, 1]`, their positions.
        mask: `[B, S]` bool, which cached columns a row really has.
        cache: Keys, values and convolution states of these columns; written to.
    """

    names: list[Name]
    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    cache: DynamicCache

    def keep(self, places: list[int]) -> None:
        """Drop all rows but those at `places`."""
        here = torch.tensor(places, dtype=torch.long)
        self.names = [self.names[place] for place in places]
        self.tokens, self.positions = self.tokens[here], self.positions[here]
        self.mask = self.mask[here.to(self.mask.device)]
        keep_rows(self.cache, here)


class Decoder(Generic[Name]):
    """Greedy answers, token by token.

    Args:
        engine: Runs the model behind the shared prefix.
        limit: Maximum new tokens per row, those of `opening` included.
        closed: Says of a row's new tokens whether the row is finished.
        opening: Tokens that every answer begins with, whatever the model would say.
        avoid: A token that no answer may begin with.
        ended: Called once for every row that is finished.
        calls: Is asked after every token of a row that has opened no call yet, and gives the matcher of one that its
            tokens have just opened; from there on the matcher takes the row's tokens.

    Attributes:
        answers: Name -> new token ids so far.
    """

    def __init__(
        self,
        engine: PrefixedModel,
        limit: int,
        closed: Callable[[list[int]], bool],
        opening: Sequence[int] = (),
        avoid: int | None = None,
        ended: Callable[[], object] = lambda: None,
        calls: Callable[[Name, list[int]], CallMatcher | None] | None = None,
    ):
        self.engine, self.limit, self.closed = engine, limit, closed
        self.opening, self.avoid, self.ended, self.calls = opening, avoid, ended, calls
        self._matchers: dict[Name, CallMatcher] = {}
        self.answers: dict[Name, list[int]] = {}
        self._done: set[Name] = set()
        self._rows: Rows[Name] | None = None

    def add(self, rows: Rows[Name], push: tuple[int, torch.Tensor] | None = None) -> None:
        """Let rows join as soon as there is room for them.

        Args:
            rows: With their last prompt tokens; given up to the decoder.
            push: (layer, `[B, H]`): added to that block's output at the last prompt token, once.
        """
        while self._rows is not None and not self._has_room(self._rows, rows):
            self._step(self._rows)
        self.answers |= {name: [] for name in rows.names}
        give_room(rows.cache, self.limit)
        hooks = []
        if push is not None:
            layer, delta = push
            hooks.append(decoder_layers(self.engine.model)[layer].register_forward_hook(_adding(delta)))
        with self.engine.forwarding():
            with hooked(*hooks):
                logits = self._run(rows)
            if self.avoid is not None:
                logits = logits.index_fill(1, torch.tensor([self.avoid], device=logits.device), -torch.inf)
            self._say(rows, logits)
        self._join(rows)

    def finish(self) -> dict[Name, list[int]]:
        """Go on until every row has ended; the answers."""
        with self.engine.forwarding():  # once, not for every step
            for _ in self.steps():
                pass
        return self.answers

    def steps(self) -> Iterator[None]:
        """Go on token by token; between two of them the model is as it was before."""
        while self._rows is not None:
            self._step(self._rows)
            yield

    def _has_room(self, rows: Rows[Name], more: Rows[Name]) -> bool:
        columns = max(rows.mask.shape[1], more.mask.shape[1]) + self.limit
        together = len(rows.names) + len(more.names)
        return len(rows.names) < JOIN_BELOW and together * columns <= MOST_COLUMNS

    def _step(self, rows: Rows[Name]) -> None:
        with self.engine.forwarding():
            self._say(rows, self._run(rows))
        places = self._going(rows)
        if not places:
            self._rows = None
        elif len(places) < COMPACT_BELOW * len(rows.names):
            rows.keep(places)

    def _going(self, rows: Rows[Name]) -> list[int]:
        return [place for place, name in enumerate(rows.names) if name not in self._done]

    def _run(self, rows: Rows[Name]) -> torch.Tensor:
        """Next-token logits `[B, vocabulary]`; the tokens' columns become part of the cache."""
        rows.mask = pad(rows.mask, (0, 1), value=True)
        engine = self.engine
        logits = engine.forward(rows.tokens, rows.positions, rows.cache, own_mask=rows.mask, prefix=engine.prefix_keys)[
            :, -1
        ]
        rows.positions = rows.positions + 1
        return logits

    def _say(self, rows: Rows[Name], logits: torch.Tensor) -> None:
        """Take every row's likeliest token; what its answer is to begin with and its call's grammar come first."""
        likeliest = logits.argmax(-1).tolist()
        for place, name in enumerate(rows.names):
            if name in self._done:
                continue
            said, matcher = self.answers[name], self._matchers.get(name)
            token = likeliest[place] if len(said) >= len(self.opening) else self.opening[len(said)]
            if matcher is not None and not matcher.ended:
                token = matcher.token(token, logits[place], self.limit - len(said))
            said.append(token)
            if self.calls is not None and matcher is None and (begun := self.calls(name, said)) is not None:
                self._matchers[name] = begun
            likeliest[place] = said[-1]
            if len(said) == self.limit or self.closed(said):
                self._done.add(name)
                self.ended()
        rows.tokens = torch.tensor(likeliest)[:, None]

    def _join(self, fresh: Rows[Name]) -> None:
        parts = [rows for rows in (self._rows, fresh) if rows is not None and self._going(rows)]
        for rows in parts:
            if len(going := self._going(rows)) < len(rows.names):
                rows.keep(going)
        if len(parts) < 2:
            self._rows = parts[0] if parts else None
            return
        unused = [int(rows.mask.any(0).int().argmax()) for rows in parts]  # leading columns
        width = max(rows.mask.shape[1] - skip for rows, skip in zip(parts, unused, strict=True))
        masks = [rows.mask[:, skip:] for rows, skip in zip(parts, unused, strict=True)]
        self._rows = Rows(
            [name for rows in parts for name in rows.names],
            torch.cat([rows.tokens for rows in parts]),
            torch.cat([rows.positions for rows in parts]),
            torch.cat([pad(mask, (width - mask.shape[1], 0), value=False) for mask in masks]),
            line_up([rows.cache for rows in parts], unused, width, self.limit),
        )


def _adding(delta: torch.Tensor) -> Callable[..., Any]:
    """A forward hook that adds `delta` `[N, H]` (fp32) to the last token's hidden state, in place."""

    def add(_module: torch.nn.Module, _args: tuple, output: Any) -> Any:
        hidden = block_output(output)
        hidden[:, -1] += delta.to(hidden.device)  # in fp32 and rounded once, as tuning replays it
        return output

    return add
