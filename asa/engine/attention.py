"""Attention to a prefix that all rows share, stored once.

Every request starts with the same system prompt and examples. Plain batched attention needs a copy of the prefix'
keys and values for every row; here all rows' queries are folded into one matrix product per key-value head, and the
softmax runs over prefix and own tokens together. The result is ordinary scaled dot-product attention up to
rounding; nothing is approximated.

It does not read an attention mask: rows carry no padding while they are prefilled, and `own_mask` says which
columns a row has where rows of different length stand side by side. A sliding window is built from the same counts.
"""

from typing import Any, Protocol

import torch
from transformers import AttentionInterface

from asa.engine.kv_cache import PrefixKeys

SHARED_PREFIX_ATTENTION = "asa_shared_prefix"


class Attention(Protocol):
    """An attention module of any family.

    Attributes:
        layer_idx: Index of its block.
    """

    layer_idx: int


def shared_prefix_attention(
    module: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    prefix: PrefixKeys | None = None,
    own_mask: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend to one shared prefix and to each row's own tokens, as one softmax.

    Plain scaled dot-product attention over `[prefix, own]`, but the prefix is stored once: all rows' queries are folded
    into one matrix product per key-value head instead of copying the prefix per row.

    Args:
        module: The attention module; its `layer_idx` picks the prefix.
        query: `[B, heads, T, d]`.
        key: `[B, kv_heads, S, d]`, the row's own tokens only; S >= T, the last T are this call's.
        value: As `key`.
        attention_mask: Unused; causality is built here.
        scaling: Factor on the scores.
        dropout: Must be 0.
        prefix: Layer index -> (keys, values), each `[kv_heads, P, d]`, as `kv_cache.PrefixKeys` has them; None while
            the prefix itself is prefilled.
        own_mask: `[B, S]` bool, False where a row has no token (rows of different length side by side).
        sliding_window: How many tokens this layer sees, the query's own included; None: all.
        **kwargs: Ignored.

    Returns:
        `([B, T, heads, d], None)`.
    """
    batch, heads, steps, width = query.shape
    kv_heads, own = key.shape[1], key.shape[2]
    known = 0 if prefix is None else prefix[module.layer_idx][0].shape[1]
    if sliding_window is not None and known + own <= sliding_window:
        sliding_window = None  # no query is too far from anything
    if sliding_window is not None:
        columns = torch.ones(1, own, device=key.device) if own_mask is None else own_mask
        places = columns.cumsum(-1).long() + known - 1  # [B or 1, S]: where in its text each own column stands
        oldest = places[:, -steps:, None] - sliding_window + 1  # [B or 1, T, 1]: the first place a query sees
    folded = (query * scaling).reshape(batch, kv_heads, -1, width)  # [B, kv, G*T, d]
    scores = (folded @ key.transpose(-1, -2)).float()  # [B, kv, G*T, S]
    if steps > 1:
        later = torch.ones(steps, own, dtype=torch.bool, device=key.device).triu(own - steps + 1)
        scores = scores.view(batch, kv_heads, -1, steps, own).masked_fill_(later, float("-inf")).flatten(2, 3)
    if sliding_window is not None:
        hidden = (places[:, None] < oldest)[:, None, None]  # [B or 1, 1, 1, T, S]
        scores = scores.view(batch, kv_heads, -1, steps, own).masked_fill_(hidden, float("-inf")).flatten(2, 3)
    if own_mask is not None:
        scores = scores.masked_fill_(~own_mask[:, None, None, :], float("-inf"))
    if prefix is None:
        out = torch.softmax(scores, dim=-1).to(value) @ value
        return out.reshape(batch, heads, steps, width).transpose(1, 2), None
    prefix_keys, prefix_values = prefix[module.layer_idx]
    rows = folded.transpose(0, 1).reshape(kv_heads, -1, width)  # [kv, B*G*T, d]: every row against the one prefix
    shared = (rows @ prefix_keys.transpose(-1, -2)).float()  # [kv, B*G*T, P]
    if sliding_window is not None:
        hidden = (torch.arange(known, device=key.device) < oldest)[:, None]  # [B or 1, 1, T, P]
        shared = shared.view(kv_heads, batch, -1, steps, known).masked_fill_(hidden, float("-inf"))
        shared = shared.view(kv_heads, -1, known)
    scores = scores.transpose(0, 1).reshape(kv_heads, -1, own)
    highest = torch.maximum(shared.amax(-1, keepdim=True), scores.amax(-1, keepdim=True))
    # in place, as memory traffic is the cost; exp(-80) is as good as 0 and far faster to take than exp(-inf)
    shared, scores = shared.sub_(highest).exp_(), scores.sub_(highest).clamp_(min=-80).exp_()
    total = shared.sum(-1, keepdim=True) + scores.sum(-1, keepdim=True)
    from_own = scores.to(value.dtype).view(kv_heads, batch, -1, own).transpose(0, 1) @ value
    out = shared.to(value.dtype) @ prefix_values + from_own.transpose(0, 1).reshape(kv_heads, -1, width)
    out = (out / total.to(value.dtype)).view(kv_heads, batch, -1, width).transpose(0, 1)
    return out.reshape(batch, heads, steps, width).transpose(1, 2), None


AttentionInterface.register(SHARED_PREFIX_ATTENTION, shared_prefix_attention)
