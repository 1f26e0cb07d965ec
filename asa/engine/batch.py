"""A batch: prompts side by side with everything but their last token in the cache.

What the method needs happens there: `last_token` reads, `replay` runs that one token again above a changed hidden
state, `decode` continues greedily. Nothing is chosen, gated or scored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from asa.engine.decoding import Decoder, Name, Rows
from asa.engine.forward import PrefixedModel
from asa.engine.kv_cache import fork_cache, give_room
from asa.models.layout import block_output, cache_name, decoder_layers, final_norm, hooked, unembed

SCORED_ROWS = 16  # answers scored at once: logits of all their tokens are held


@dataclass(frozen=True)
class LastToken:
    """What the model holds at the last prompt token, one row per request.

    Attributes:
        states: `[N, layers, H]`, residual stream behind every block, in the model's dtype.
        logits: `[N, vocabulary]`, scores of the next token.
    """

    states: torch.Tensor
    logits: torch.Tensor


@dataclass
class Batch:
    """Prompts side by side, everything but their last token in the cache.

    Attributes:
        engine: The engine that made it.
        rows: Which of the prompts given to `Engine.batches` these are.
        tokens: `[N, 1]`, last prompt tokens.
        positions: `[N, 1]`, their positions.
        own_mask: `[N, S]` bool, which cached columns a row really has.
        cache: Keys, values and convolution states of the own tokens; never changed by the methods below.
    """

    engine: PrefixedModel
    rows: list[int]
    tokens: torch.Tensor
    positions: torch.Tensor
    own_mask: torch.Tensor
    cache: DynamicCache
    _calls: list[dict] = field(default_factory=list, repr=False)

    def last_token(self) -> LastToken:
        """Run the last prompt token; remember how each block was called, for `replay`."""
        states, calls, hooks = [], [], []

        def remember(_module: torch.nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
            calls.append(kwargs | {cache_name(kwargs): None})  # replay brings a cache of its own; this one may go

        for layer in decoder_layers(self.engine.model):
            hooks.append(layer.register_forward_pre_hook(remember, with_kwargs=True))
            hooks.append(
                layer.register_forward_hook(lambda _m, _a, out: states.append(block_output(out)[:, -1].clone()))
            )
        with hooked(*hooks):
            logits = self._step(self.tokens, self.positions, fork_cache(self.cache), self._mask(1))
        self._calls = calls
        first = states[0].device  # a device map may spread the blocks
        return LastToken(torch.stack([state.to(first) for state in states], dim=1), logits)

    def replay(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits if block `layer` had put out `hidden` at the last prompt token.

        Only the blocks above run, on one token; they are called with the arguments that the model itself gave them.

        Args:
            layer: Index of the block whose output is replaced.
            hidden: `[N, H]`.

        Returns:
            `[N, vocabulary]`.
        """
        model, cache = self.engine.model, fork_cache(self.cache)
        if not self._calls:
            self.last_token()
        hidden = hidden[:, None].to(model.dtype)
        with self.engine.forwarding():
            for number, block in enumerate(decoder_layers(model)[layer + 1 :], layer + 1):
                call = self._calls[number]
                hidden = block_output(block(hidden, **(call | {cache_name(call): cache})))
            return unembed(model, final_norm(model)(hidden))[:, -1]

    def decode(
        self,
        limit: int,
        closed: Callable[[list[int]], bool],
        push: tuple[int, torch.Tensor] | None = None,
        opening: Sequence[int] = (),
        avoid: int | None = None,
    ) -> list[list[int]]:
        """Greedy continuation of every row.

        Args:
            limit: Maximum new tokens per row, those of `opening` included.
            closed: Says of a row's new tokens whether the row is finished.
            push: (layer, `[N, H]`): added to that block's output at the last prompt token, once.
            opening: Tokens that every answer begins with, whatever the model would say.
            avoid: A token that no answer may begin with.

        Returns:
            New token ids of every row, in the order of `rows`.
        """
        decoder = Decoder[int](self.engine, limit, closed, opening, avoid)
        decoder.add(self.begin(self.rows), push)
        answers = decoder.finish()
        return [answers[row] for row in self.rows]

    def begin(self, names: list[Name]) -> Rows[Name]:
        """Its rows as a decoder takes them, under `names` `[N]`."""
        return Rows(names, self.tokens, self.positions, self.own_mask, fork_cache(self.cache))

    def log_likelihood(self, answers: list[list[int]]) -> list[float]:
        """Mean log-probability per token (nats) that the unsteered model gives to the rows' `answers`.

        Every answer holds at least one token. Answers of like length run at once, filled up on the right, which no
        token sees.
        """
        found = [0.0] * len(answers)
        by_length = sorted(range(len(answers)), key=lambda place: len(answers[place]))
        for first in range(0, len(answers), SCORED_ROWS):
            here = by_length[first : first + SCORED_ROWS]
            part, said = self.select(here), [torch.tensor(answers[place]) for place in here]
            targets = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
            ids = torch.cat([part.tokens, targets[:, :-1]], dim=1)
            engine = self.engine
            give_room(part.cache, ids.shape[1])
            with engine.forwarding():
                mask = part._mask(ids.shape[1])
                logits = engine.forward(
                    ids, part.positions, part.cache, own_mask=mask, prefix=engine.prefix_keys, keep=ids.shape[1]
                )
            log_p = logits.float().log_softmax(-1).gather(2, targets[..., None].to(logits.device))[..., 0]
            for place, row, ids in zip(here, log_p, said, strict=True):
                found[place] = float(row[: len(ids)].mean())
        return found

    def select(self, places: list[int]) -> "Batch":
        """The rows at `places` of this batch, as a batch of their own."""
        keep = torch.tensor(places)
        there = keep.to(self.own_mask.device)
        rows = [self.rows[place] for place in places]
        cache = fork_cache(self.cache, there)
        return Batch(self.engine, rows, self.tokens[keep], self.positions[keep], self.own_mask[there], cache)

    def _mask(self, new: int) -> torch.Tensor:
        return torch.nn.functional.pad(self.own_mask, (0, new), value=True)

    def _step(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: DynamicCache, mask: torch.Tensor
    ) -> torch.Tensor:
        engine = self.engine
        with engine.forwarding():
            return engine.forward(tokens, positions, cache, own_mask=mask, prefix=engine.prefix_keys)[:, -1]
