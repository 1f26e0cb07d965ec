"""Shared-prefix attention against plain attention over `[prefix, own]` with an explicit mask."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import send_to_device
from batches import check_against_plain, truth_of
from conftest import PREFIX as PROMPTS_SHARE
from conftest import make_gemma3
from helpers import assert_near
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from truth import allowed_error

from asa.engine.attention import SHARED_PREFIX_ATTENTION, shared_prefix_attention
from asa.engine.engine import Engine

BATCH, WIDTH, PREFIX = 3, 8, 11
MODULE = SimpleNamespace(layer_idx=2)


def tensors(heads: int, kv_heads: int, steps: int, own: int, seed: int = 0):
    """Random query, key, value and prefix; the prefix of the other layer would give another answer."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 2

    query, key, value = (
        draw(BATCH, heads, steps, WIDTH),
        draw(BATCH, kv_heads, own, WIDTH),
        draw(BATCH, kv_heads, own, WIDTH),
    )
    prefix = {layer: (draw(kv_heads, PREFIX, WIDTH), draw(kv_heads, PREFIX, WIDTH)) for layer in (0, 2)}
    return query, key, value, prefix


def plain(query, key, value, scaling, prefix=None, own_mask=None, window=None):
    """The same attention with nothing shared: keys copied for every row and head, one explicit mask."""
    heads, steps, own = query.shape[1], query.shape[2], key.shape[2]
    mask = torch.ones(steps, own, dtype=torch.bool).tril(own - steps).expand(BATCH, 1, steps, own)
    if own_mask is not None:
        mask = mask & own_mask[:, None, None, :]
    if prefix is not None:
        key, value = (
            torch.cat([shared.expand(BATCH, -1, -1, -1), own_part], dim=2)
            for shared, own_part in zip(prefix[MODULE.layer_idx], (key, value), strict=True)
        )
        mask = torch.nn.functional.pad(mask, (PREFIX, 0), value=True)
    if window is not None:
        mask = mask & (mask.flip(-1).cumsum(-1).flip(-1) <= window)  # the last ones of those that a query may see
    key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    scores = (query * scaling @ key.transpose(-1, -2)).masked_fill(~mask, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def assert_as_plain(found, query, key, value, prefix, own_mask=None, window=None) -> None:
    """As near as plain attention comes to what it gives in float64; a row's, step's and head's `WIDTH` numbers each."""
    pairs = prefix and {layer: tuple(part.double() for part in pair) for layer, pair in prefix.items()}
    true = plain(query.double(), key.double(), value.double(), 0.3, pairs, own_mask, window)
    assert_near(found, true, allowed_error((plain(query, key, value, 0.3, prefix, own_mask, window), true)))


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("steps", "own"), [(1, 1), (1, 6), (5, 5), (3, 7)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
def test_equals_plain_attention(heads, kv_heads, steps, own, shared, holes):
    """Grouped heads, one and several steps, earlier own tokens, missing columns, with and without a prefix."""
    query, key, value, prefix = tensors(heads, kv_heads, steps, own)
    prefix = prefix if shared else None
    own_mask = None
    if holes and own > steps:  # this call's own tokens are always there
        own_mask = torch.ones(BATCH, own, dtype=torch.bool)
        own_mask[0, : own - steps - 1] = own_mask[1, own - steps - 1] = False
        assert own_mask.all(1).tolist().count(False) == (2 if own - steps > 1 else 1)
    found, weights = shared_prefix_attention(MODULE, query, key, value, None, 0.3, prefix=prefix, own_mask=own_mask)
    assert weights is None
    assert found.shape == (BATCH, steps, heads, WIDTH)
    assert_as_plain(found, query, key, value, prefix, own_mask)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("steps", "own"), [(1, 1), (1, 6), (5, 5), (3, 7)])
@pytest.mark.parametrize("window", [1, 2, 4, 6, 10, 14, 17, 100])
def test_a_sliding_window_hides_what_lies_further_back(window, steps, own, shared, holes):
    """It counts a row's own tokens, not its columns, and reaches into the prefix or over all of it."""
    query, key, value, prefix = tensors(4, 2, steps, own)
    prefix = prefix if shared else None
    own_mask = None
    if holes:
        own_mask = torch.ones(BATCH, own, dtype=torch.bool)
        own_mask[0, : own - steps] = own_mask[1, 1 : own - steps] = False
    found, _ = shared_prefix_attention(
        MODULE, query, key, value, None, 0.3, prefix=prefix, own_mask=own_mask, sliding_window=window
    )
    assert_as_plain(found, query, key, value, prefix, own_mask, window)


@pytest.mark.slow
@pytest.mark.parametrize("window", [2, 6, PROMPTS_SHARE - 1, PROMPTS_SHARE, PROMPTS_SHARE + 12, 512])
def test_the_engine_on_sliding_windows(prompts, window):
    """Gemma 3 forgets inside the prefix, at its end, among a row's own tokens, while it decodes, or not at all."""
    model = make_gemma3(window)
    check_against_plain(model, prompts, prompts[0][:PROMPTS_SHARE], truth_of(model, prompts))


def test_a_long_prefix_stays_where_it_is(tiny_model, prompts):
    """accelerate moves what a block is called with to the block's device; of the prefix each block has its own part."""
    keys = Engine(tiny_model, prompts[0][:PROMPTS_SHARE]).prefix_keys
    moved = send_to_device({"prefix": keys, "hidden": torch.ones(1)}, "meta")
    assert moved["hidden"].device.type == "meta"
    assert moved["prefix"] is keys


def test_hidden_columns_hold_anything():
    """What stands in a hidden column, padding or another row's rest, never shows."""
    query, key, value, prefix = tensors(4, 2, 1, 6)
    own_mask = torch.ones(BATCH, 6, dtype=torch.bool)
    own_mask[:, 1:4] = False
    before, _ = shared_prefix_attention(MODULE, query, key, value, None, 0.3, prefix=prefix, own_mask=own_mask)
    key[:, :, 1:4], value[:, :, 1:4] = 50.0, -1e6
    after, _ = shared_prefix_attention(MODULE, query, key, value, None, 0.3, prefix=prefix, own_mask=own_mask)
    assert torch.equal(before, after)


@pytest.mark.parametrize("toward", ["prefix", "own"])
def test_stays_finite_where_scores_are_far_apart(toward):
    """Softmax over both parts subtracts the highest score of either."""
    query, key, value, prefix = tensors(4, 2, 2, 4)
    query = query * 200
    if toward == "prefix":
        key = key * 0.01
    else:
        prefix = {2: (prefix[2][0] * 0.01, prefix[2][1])}
    found, _ = shared_prefix_attention(MODULE, query, key, value, None, 0.3, prefix=prefix)
    assert torch.isfinite(found).all()
    assert_as_plain(found, query, key, value, prefix)


def test_leaves_its_arguments_alone():
    """Prefix and cache are used again by the next call; the in-place steps must stay on scratch tensors."""
    query, key, value, prefix = tensors(4, 2, 3, 5)
    own_mask = torch.tensor([[False, True, True, True, True]]).expand(BATCH, 5)
    given = [query, key, value, own_mask, *prefix[2]]
    copies = [tensor.clone() for tensor in given]
    shared_prefix_attention(MODULE, query, key, value, None, 0.3, prefix=prefix, own_mask=own_mask)
    shared_prefix_attention(MODULE, query, key, value, None, 0.3, own_mask=own_mask)
    assert all(torch.equal(copy, tensor) for copy, tensor in zip(copies, given, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit(dtype):
    """The model's dtype comes out, and only its rounding is lost."""
    query, key, value, prefix = (
        part.to(dtype) if isinstance(part, torch.Tensor) else {2: tuple(half.to(dtype) for half in part[2])}
        for part in tensors(4, 2, 1, 6)
    )
    found, _ = shared_prefix_attention(MODULE, query, key, value, None, 0.3, prefix=prefix)
    assert found.dtype == dtype
    assert_as_plain(found, query, key, value, prefix)


def test_is_registered_by_its_name():
    """A model asked for this attention by name gets this function."""
    assert ALL_ATTENTION_FUNCTIONS[SHARED_PREFIX_ATTENTION] is shared_prefix_attention
