"""Prefixes: a beginning that goes on gives what it gives at once, and only the latest are kept."""

import pytest
import torch
from helpers import assert_near, full_forwards, plain_and_true
from truth import allowed_error

from asa.engine.engine import Engine
from asa.engine.prefixes import KEPT, Prefixes


def test_a_prefix_that_goes_on_is_exact(tiny_model, prompts):
    """States and logits behind it are as near the true ones as a plain full forward's."""
    shared = prompts[0][:20]
    rows = [shared + prompt[-3:] for prompt in prompts[:3]]
    short = Engine(tiny_model, shared[:9])
    before = [tuple(part.clone() for part in pair) for pair in short.prefix_keys.layers.values()]
    (batch,) = Engine(tiny_model, shared[:17], short).batches(rows, "")
    found = batch.last_token().states[torch.tensor(batch.rows).argsort()]
    plain, true = plain_and_true(tiny_model, lambda of: full_forwards(of, rows).states)
    assert_near(found, true, allowed_error((plain, true)))
    for old, new in zip(before, short.prefix_keys.layers.values(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(old, new, strict=True))
    with pytest.raises(ValueError, match="not how this prefix begins"):
        Engine(tiny_model, shared[1:17], short)


def test_the_longest_beginning_is_built_on(tiny_llama, prompts):
    """And the engine that is wanted again is the same one; the oldest go."""
    kept, shared = Prefixes(tiny_llama), prompts[0][:20]
    base = kept.engine(shared[:8], [[*shared, 7, 8]])
    assert base.prefix_ids == shared[:8] and kept.engine(shared[:8], [[*shared, 9, 9]]) is base
    longer = kept.engine(shared, [[*shared, 7, 8, 9]])
    assert longer.prefix_ids == shared
    assert kept.engine(shared, [[*shared[:8], 3, 4, 5]]).prefix_ids == shared[:8]
    for other in range(KEPT):
        kept.engine([*shared[:4], other], [[*shared[:4], other, 5, 6, 7]])
    assert kept.engine(shared[:8], [[*shared, 7, 8]]) is not base
