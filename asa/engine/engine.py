"""The engine: one prefix, many prompts at a time, last-token states, replay, greedy decoding.

All requests share their system prompt and examples, so the longest common *token* prefix is prefilled once and its
keys and values are kept once, whatever the batch. A request's own tokens are then prefilled without its last one,
many rows at once, of equal length where the model has convolution layers. They are put side by side for the last prompt
token, and all that the method needs happens there:

- `Batch.last_token` gives the residual stream behind every block at the last prompt token, and the next-token logits;
- `Batch.replay` runs that one token again through the blocks above a changed hidden state: one steering setting;
- `Batch.decode` continues greedily, unsteered or with one push at one block.

It does not choose, gate or score anything. That a split prefill is exact is tested against plain full forwards.
"""

from collections.abc import Callable, Iterator

import torch

from asa.engine.batch import Batch
from asa.engine.forward import PrefixedModel
from asa.engine.kv_cache import fork_cache, is_convolution, join_caches
from asa.support.processes import dealt, progress

BUCKET_TOKENS = 1024  # tokens in one prefill forward
BATCH_ROWS = 160  # most rows side by side
BATCH_TOKENS = 16384  # most own tokens side by side, padding included: bounds the cache's memory


class Engine(PrefixedModel):
    """Makes batches of prompts that start with the shared prefix."""

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
        here = dealt(groups)
        with progress(total=sum(map(len, here)), desc=what, unit="prompt") as bar:
            for rows in here:
                yield self._prefill(rows, [prompts[row][known:] for row in rows], bar.update)

    def _prefill(self, rows: list[int], suffixes: list[list[int]], prefilled: Callable[[int], object]) -> "Batch":
        """Prefill `suffixes` (sorted by length) without their last tokens, bucket by bucket, and join the caches.

        `prefilled` is told how many rows every bucket held.
        """
        lengths = torch.tensor([len(s) - 1 for s in suffixes])
        longest = int(lengths[-1])
        parts = []
        with self.forwarding():
            for bucket in self._buckets(lengths.tolist()):
                own = [torch.tensor(suffixes[row][:-1]) for row in bucket]
                cache = fork_cache(self.start, torch.zeros(len(own), dtype=torch.long, device=self.device))
                ids = torch.nn.utils.rnn.pad_sequence(own, batch_first=True)
                self.prefill(ids, len(self.prefix_ids), cache, self.prefix_keys)
                parts.append(cache)
                prefilled(len(own))
        cache = join_caches(parts, longest)
        own_mask = torch.arange(longest)[None] < lengths[:, None]
        last = torch.tensor([[s[-1]] for s in suffixes])
        return Batch(self, rows, last, lengths[:, None] + len(self.prefix_ids), own_mask.to(self.device), cache)

    def _buckets(self, lengths: list[int]) -> Iterator[range]:
        """Rows that are prefilled in one pass; `lengths` is sorted.

        No token attends to what is behind it, so that shorter rows may be filled up there, and `own_mask` hides it
        later. A convolution layer keeps its last inputs, whatever they are: rows of equal length only go together.
        """
        exact = any(is_convolution(layer) for layer in self.start.layers)
        first = 0
        for row, length in enumerate(lengths):
            too_many = length * (row + 1 - first) > BUCKET_TOKENS
            if row > first and (too_many or (exact and length != lengths[first])):
                yield range(first, row)
                first = row
        yield range(first, len(lengths))
