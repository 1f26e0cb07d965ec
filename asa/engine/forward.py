"""Forward passes of a model behind one shared prefix, which is prefilled once.

The prefix' keys and values are kept once, whatever the batch (see `attention`), and so are its convolution states. Our
attention is on for the time of a pass; the caller's own `generate` keeps the model's.
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache

from asa.engine.attention import SHARED_PREFIX_ATTENTION
from asa.engine.kv_cache import PrefixKeys, fork_cache, growing_cache, put_keys, take_keys
from asa.engine.linears import fast_linears
from asa.models.layout import CausalModel, cache_name, input_device, is_compiled


class PrefixedModel:
    """A model with one shared prefix prefilled.

    Args:
        model: A causal language model of transformers, in evaluation mode.
        prefix_ids: Token ids that every prompt starts with, at least one.
        behind: The same model with the beginning of this prefix prefilled; None: nothing of it is.

    Attributes:
        prefix_keys: Keys and values of the prefix.
        start: A cache with the convolution states behind the prefix; its attention layers are empty.

    Raises:
        ValueError: The model is compiled, or `behind` has prefilled something else.
    """

    def __init__(self, model: CausalModel, prefix_ids: list[int], behind: "PrefixedModel | None" = None):
        if is_compiled(model):
            raise ValueError("a compiled model ignores hooks set later: give the engine the uncompiled one.")
        self.model, self.device = model, input_device(model)
        self.prefix_ids = list(prefix_ids)
        if behind is not None and self.prefix_ids[: len(behind.prefix_ids)] != behind.prefix_ids:
            raise ValueError("what is prefilled already is not how this prefix begins.")
        parts = (model, model.get_decoder())  # asked for once: every token is a pass
        self._cache_names = {part: cache_name(inspect.signature(part.forward).parameters) for part in parts}
        known, cache = 0, growing_cache(model.config)
        if behind is not None:
            known, cache = len(behind.prefix_ids), put_keys(fork_cache(behind.start), behind.prefix_keys)
        with self.forwarding():
            self.prefill(torch.tensor([self.prefix_ids[known:]]), known, cache)
        self.prefix_keys: PrefixKeys = take_keys(cache)
        self.start: DynamicCache = cache  # convolution states behind the prefix; attention layers empty

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Our attention for the time of forward passes; the caller's `generate` keeps the model's own."""
        before = self.model.config._attn_implementation
        if before == SHARED_PREFIX_ATTENTION:  # a pass within passes
            with torch.inference_mode():
                yield
            return
        self.model.set_attn_implementation(SHARED_PREFIX_ATTENTION)
        try:
            with torch.inference_mode(), fast_linears(self.model):
                yield
        finally:
            self.model.set_attn_implementation(before)

    def forward(
        self,
        ids: torch.Tensor,
        start: int | torch.Tensor,
        cache: DynamicCache,
        own_mask: torch.Tensor | None = None,
        prefix: PrefixKeys | None = None,
        keep: int = 1,
    ) -> torch.Tensor:
        """One forward pass of `ids` `[B, T]` at positions `start` (int or `[B, 1]`).

        Returns:
            Logits of the last `keep` tokens `[B, keep, vocabulary]`.
        """
        more = {"own_mask": own_mask, "prefix": prefix, "logits_to_keep": keep}
        return self._run(self.model, ids, start, cache, more).logits

    def prefill(self, ids: torch.Tensor, start: int, cache: DynamicCache, prefix: PrefixKeys | None = None) -> None:
        """The same for what it leaves in `cache` alone: without logits."""
        self._run(self.model.get_decoder(), ids, start, cache, {"own_mask": None, "prefix": prefix})

    def _run(
        self, run: torch.nn.Module, ids: torch.Tensor, start: int | torch.Tensor, cache: DynamicCache, more: dict
    ) -> Any:
        positions = torch.arange(ids.shape[1])[None] + start
        return run(
            input_ids=ids.to(self.device),
            position_ids=positions.expand(ids.shape).to(self.device),
            use_cache=True,
            **{self._cache_names[run]: cache},
            **more,
        )
