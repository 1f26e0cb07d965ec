"""The engine: one prefix, exact-length buckets, last-token states, replay, greedy decoding.

All requests share their system prompt and examples, so the longest common *token* prefix is prefilled once and its
keys and values are kept once, whatever the batch. A request's own tokens are then prefilled without its last one,
in buckets of equal length, so that nothing is ever padded while attention and convolution caches are written. Rows
of different buckets are put side by side for the last prompt token, and all that the method needs happens there:

- `Batch.last_token` gives the residual stream behind every block at the last prompt token, and the next-token logits;
- `Batch.replay` runs that one token again through the blocks above a changed hidden state: one steering setting;
- `Batch.decode` continues greedily, unsteered or with one push at one block.

It does not choose, gate or score anything, and it never pads a prompt. Source: design section 5 of this project;
the exactness of a split prefill is tested against plain full forwards.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from asa.engine.attention import SHARED_PREFIX_ATTENTION
from asa.engine.kv_cache import fork_cache, give_room, growing_cache, join_caches, keep_rows, take_keys
from asa.models.layout import block_output, decoder_layers, final_norm, hooked, input_device, is_compiled
from asa.support.processes import dealt, progress

BUCKET_TOKENS = 2048  # tokens in one prefill forward
BATCH_ROWS = 160  # most rows side by side
COMPACT_BELOW = 0.85  # share of unfinished rows below which finished ones are dropped
SCORED_ROWS = 16  # answers scored at once: logits of all their tokens are held
BATCH_TOKENS = 8192  # most own tokens side by side, padding included: bounds the cache's memory


@dataclass(frozen=True)
class LastToken:
    """What the model holds at the last prompt token, a row a request.

    Attributes:
        states: `[N, layers, H]`, residual stream behind every block, in the model's dtype.
        logits: `[N, vocabulary]`, scores of the next token.
    """

    states: torch.Tensor
    logits: torch.Tensor


class Engine:
    """A model with one shared prefix prefilled; makes batches of prompts that start with it.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prefix_ids: Token ids that every prompt starts with, at least one.

    Raises:
        ValueError: The model is compiled.
    """

    def __init__(self, model, prefix_ids: list[int]):
        if is_compiled(model, model):
            raise ValueError("a compiled model ignores hooks set later: give the engine the uncompiled one.")
        self.model, self.device = model, input_device(model)
        self.prefix_ids = list(prefix_ids)
        cache = growing_cache(model.config)
        with self._forwarding():
            self._forward(torch.tensor([self.prefix_ids]), 0, cache, keep=0)
        self._prefix_keys = take_keys(cache)
        self._start = cache  # convolution states behind the prefix; attention layers empty

    @contextlib.contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Our attention for the time of a forward pass; the caller's `generate` keeps the model's own."""
        before = self.model.config._attn_implementation
        self.model.set_attn_implementation(SHARED_PREFIX_ATTENTION)
        try:
            with torch.inference_mode():
                yield
        finally:
            self.model.set_attn_implementation(before)

    def _forward(self, ids, start, cache, own_mask=None, prefix=None, keep=1):
        """One forward pass of `ids` `[B, T]` at positions `start` (int or `[B, 1]`).

        Returns:
            Logits of the last `keep` tokens `[B, keep, vocabulary]`; None where `keep` is 0.
        """
        positions = torch.arange(ids.shape[1])[None] + start
        run = self.model if keep else self.model.get_decoder()
        out = run(
            input_ids=ids.to(self.device),
            position_ids=positions.expand(ids.shape).to(self.device),
            past_key_values=cache,
            use_cache=True,
            own_mask=own_mask,
            prefix=prefix,
            **({"logits_to_keep": keep} if keep else {}),
        )
        return out.logits if keep else None

    def batches(self, prompts: list[list[int]], what: str) -> "Iterator[Batch]":
        """Prefill `prompts` up to their last token, in batches of rows of similar length.

        Args:
            prompts: Token ids, each longer than the prefix by at least two.
            what: Name of the progress bar.

        Yields:
            Batches that cover every prompt once, `Batch.rows` says which; of several processes each makes its share.

        Raises:
            ValueError: A prompt does not start with the prefix or has fewer than two tokens behind it.
        """
        known = len(self.prefix_ids)
        for row, prompt in enumerate(prompts):
            if prompt[:known] != self.prefix_ids or len(prompt) < known + 2:
                raise ValueError(f"prompt {row} does not start with the shared prefix of {known} tokens and two more.")
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        groups = []
        while order:
            most = BATCH_ROWS
            while most > 1 and most * (len(prompts[order[:most][-1]]) - known) > BATCH_TOKENS:
                most -= 1
            groups.append(order[:most])
            order = order[most:]
        for rows in progress(dealt(groups), desc=what, unit="batch"):
            yield self._prefill(rows, [prompts[row][known:] for row in rows])

    def _prefill(self, rows: list[int], suffixes: list[list[int]]) -> "Batch":
        """Prefill `suffixes` (sorted by length) without their last tokens, bucket by bucket, and join the caches."""
        longest = len(suffixes[-1]) - 1
        parts = []
        with self._forwarding():
            first = 0
            while first < len(suffixes):
                length = len(suffixes[first]) - 1
                most = max(1, BUCKET_TOKENS // length)
                same = [s for s in suffixes[first : first + most] if len(s) - 1 == length]
                cache = fork_cache(self._start, torch.zeros(len(same), dtype=torch.long, device=self.device))
                ids = torch.tensor([s[:-1] for s in same])
                self._forward(ids, len(self.prefix_ids), cache, prefix=self._prefix_keys, keep=0)
                parts.append(cache)
                first += len(same)
        cache = join_caches(parts, longest)
        lengths = torch.tensor([len(s) - 1 for s in suffixes])
        own_mask = torch.arange(longest)[None] < lengths[:, None]
        last = torch.tensor([[s[-1]] for s in suffixes])
        return Batch(self, rows, last, lengths[:, None] + len(self.prefix_ids), own_mask.to(self.device), cache)


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

    engine: Engine
    rows: list[int]
    tokens: torch.Tensor
    positions: torch.Tensor
    own_mask: torch.Tensor
    cache: DynamicCache
    _calls: list[dict] = field(default_factory=list, repr=False)

    def last_token(self) -> LastToken:
        """Run the last prompt token; remember how each block was called, for `replay`."""
        states, calls, hooks = [], [], []

        def remember(_module, _args, kwargs):
            calls.append(kwargs | {"past_key_values": None})  # replay brings a cache of its own; this one may go

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
        with self.engine._forwarding():
            for number, block in enumerate(decoder_layers(model)[layer + 1 :], layer + 1):
                hidden = block_output(block(hidden, **(self._calls[number] | {"past_key_values": cache})))
            return model.lm_head(final_norm(model)(hidden))[:, -1]

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
            limit: Most new tokens a row, those of `opening` included.
            closed: Says of a row's new tokens whether the row is finished.
            push: (layer, `[N, H]`): added to that block's output at the last prompt token, once.
            opening: Tokens that every answer begins with, whatever the model would say.
            avoid: A token that no answer may begin with.

        Returns:
            New token ids a row, in the order of `rows`.
        """
        answers: list[list[int]] = [[] for _ in self.rows]
        tokens, positions, cache, mask = self.tokens, self.positions, fork_cache(self.cache), self._mask(1)
        give_room(cache, limit)
        held = list(range(len(self.rows)))  # rows still in the cache; a finished one stays until enough have finished
        done: set[int] = set()
        for step in range(limit):
            hooks = []
            if push is not None and step == 0:
                layer, delta = push
                hooks.append(decoder_layers(self.engine.model)[layer].register_forward_hook(_adding(delta)))
            with hooked(*hooks):
                logits = self._step(tokens, positions, cache, mask)
            if avoid is not None and step == 0:
                logits = logits.index_fill(1, torch.tensor([avoid], device=logits.device), -torch.inf)
            tokens = logits.argmax(-1, keepdim=True).cpu()
            if step < len(opening):
                tokens = torch.full_like(tokens, opening[step])
            for row, token in zip(held, tokens[:, 0].tolist(), strict=True):
                if row not in done:
                    answers[row].append(token)
                    if closed(answers[row]):
                        done.add(row)
            going = [place for place, row in enumerate(held) if row not in done]
            if not going:
                break
            positions = positions + 1
            if len(going) < COMPACT_BELOW * len(held):
                held, tokens, positions = [held[place] for place in going], tokens[going], positions[going]
                keep = torch.tensor(going, device=mask.device)
                keep_rows(cache, keep)
                mask = mask[keep]
            mask = torch.nn.functional.pad(mask, (0, 1), value=True)
        return answers

    def log_likelihood(self, answers: list[list[int]]) -> list[float]:
        """Mean log-probability a token (nats) that the unsteered model gives to the rows' `answers`.

        Every answer holds at least one token. All of them run at once, filled up on the right, which no token sees.
        """
        found = []
        for first in range(0, len(self.rows), SCORED_ROWS):
            here = range(first, min(first + SCORED_ROWS, len(self.rows)))
            part, said = self.select(list(here)), [torch.tensor(answers[place]) for place in here]
            targets = torch.nn.utils.rnn.pad_sequence(said, batch_first=True)
            ids = torch.cat([part.tokens, targets[:, :-1]], dim=1)
            engine = self.engine
            with engine._forwarding():
                mask = part._mask(ids.shape[1])
                logits = engine._forward(
                    ids, part.positions, part.cache, own_mask=mask, prefix=engine._prefix_keys, keep=ids.shape[1]
                )
            log_p = logits.float().log_softmax(-1).gather(2, targets[..., None].to(logits.device))[..., 0]
            found += [float(row[: len(ids)].mean()) for row, ids in zip(log_p, said, strict=True)]
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

    def _step(self, tokens, positions, cache, mask) -> torch.Tensor:
        engine = self.engine
        with engine._forwarding():
            return engine._forward(tokens, positions, cache, own_mask=mask, prefix=engine._prefix_keys)[:, -1]


def _adding(delta: torch.Tensor):
    """A forward hook that adds `delta` `[N, H]` (fp32) to the last token's hidden state, in place."""

    def add(_module, _args, output):
        hidden = block_output(output)
        hidden[:, -1] += delta.to(hidden.device)  # in fp32 and rounded once, as tuning replays it
        return output

    return add
