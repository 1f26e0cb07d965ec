"""One request per row: what marks a forward call whose last column is not the last token of every row's one request.

Such calls are refused: right padding, packed sequences, paged attention.
"""

import torch

from asa.adapter.decision import AdapterError
from asa.models.layout import cache_name

# Arguments by which transformers, flash attention and state-space models mark several requests in one row.
PACKING = ("cu_seq_lens_q", "cu_seq_lens_k", "cu_seqlens", "max_length_q", "max_seqlen_q", "seq_idx", "block_table")
ONE_REQUEST = "a row holds more than one request (packed or paged): steer a batch with one request per row."


def refuse_right_padding(mask: object, last: int) -> None:
    """Refuse a padding mask `[B, T]` that hides column `last` of any row."""
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and not mask[:, last : last + 1].all():
        raise AdapterError("the batch is padded on the right: set tokenizer.padding_side = 'left'.")


def refuse_packing(given: dict, width: int) -> None:
    """Refuse a forward call, of `width` tokens per row and the arguments `given`, in which a row is not one request."""
    cache = given.get(cache_name(given))
    paged = cache is not None and not hasattr(cache, "get_seq_length")
    if paged or any(given.get(name) is not None for name in PACKING):
        raise AdapterError(ONE_REQUEST)
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if isinstance(mask, torch.Tensor) and mask.dim() == 4 and _last_sees_less(mask):
        raise AdapterError(ONE_REQUEST)
    if width > 1 and isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.max() > 1:  # numbered segments
        raise AdapterError(ONE_REQUEST)
    if not isinstance(positions, torch.Tensor) or positions.dim() != 2:
        return
    if mask is None and len(positions) > 1 and (positions[:, -1] != positions[0, -1]).any():
        raise AdapterError("rows end at different positions and there is no attention_mask: pass the one they have.")
    if width > 1 and _starts_again(positions, mask):
        raise AdapterError(ONE_REQUEST)


def _last_sees_less(mask: torch.Tensor) -> bool:
    """Whether the last token of a mask `[B, 1, T, S]` is kept from a token that an earlier one sees."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    return bool((seen.any(dim=-2) & ~seen[..., -1, :]).any())


def _starts_again(positions: torch.Tensor, mask: object) -> bool:
    """Whether positions `[B, T]` go on by other steps than 1 behind a row's padding."""
    odd = positions.diff(dim=1) != 1
    if isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] >= positions.shape[1]:
        real = mask[:, -positions.shape[1] :] != 0
        return bool((odd & real[:, 1:] & real[:, :-1]).any())
    begun = (~odd).cumsum(dim=1) > 0  # a mask that cannot be read: padding is what comes before the first step of 1
    return bool((odd & (begun | (mask is None))).any())
