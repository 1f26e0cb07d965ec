"""Known prompts: a prompt with other tools than the fit's is warned of once, or refused."""

import warnings

import pytest
import torch
from conftest import PAD, fit_adapter

from asa import AdapterError
from asa.models.known_prompts import begin_alike, prefix_mark

PREFIX = [5, 6, 7]
MARK = prefix_mark(PREFIX)


@pytest.mark.parametrize(
    ("ids", "mask", "alike"),
    [
        ([[5, 6, 7, 8]], None, True),
        ([[5, 6, 8, 8]], None, False),
        ([[5, 6]], None, False),
        ([[5, 6, 7, 8], [5, 6, 8, 7]], None, False),
        ([[0, 0, 5, 6, 7, 8], [5, 6, 7, 1, 2, 3]], [[0, 0, 1, 1, 1, 1], [1] * 6], True),
        ([[0, 0, 5, 6, 7, 8]], [[1] * 6], False),
        ([[8, 9]], [[1] * 5], True),  # only what follows a cache
    ],
)
def test_rows_are_looked_at_behind_their_padding(ids, mask, alike):
    mask = None if mask is None else torch.tensor(mask)
    assert begin_alike(torch.tensor(ids), mask, MARK) is alike


def test_what_cannot_be_seen_passes():
    assert begin_alike(torch.zeros(1, 4, 8), None, MARK)
    assert begin_alike(torch.tensor([[1]]), None, None)


def test_other_prompts_are_warned_of_once_or_refused(tiny_model, prompts):
    """By `generate` and by plain calls, also in a padded batch; those of the fit are not."""
    adapter = fit_adapter(tiny_model, prompts).adapter
    adapter.config["prefix"] = prefix_mark(prompts[0][:6])
    own, other = torch.tensor([prompts[0]]), torch.tensor([prompts[0][1:]])

    def steer(ids, strict=False, **more):
        with adapter.steer(tiny_model, strict=strict):
            tiny_model.generate(ids, max_new_tokens=1, do_sample=False, attention_mask=torch.ones_like(ids), **more)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steer(own, strict=True)
    with pytest.raises(AdapterError, match="does not begin as those that the adapter was fitted on"):
        steer(other, strict=True)
    with pytest.raises(AdapterError, match="make prompts with asa"), adapter.steer(tiny_model, strict=True):
        tiny_model(other)
    with pytest.warns(UserWarning, match="what it decides there means nothing"):
        steer(other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steer(other)  # said already
    with pytest.raises(AdapterError, match="does not begin as those"):
        steer(other, strict=True)  # also where it was said already
    padded = torch.cat([torch.full((1, 2), PAD), own], dim=1)
    mask = (torch.arange(padded.shape[1])[None] >= 2).long()
    with adapter.steer(tiny_model, strict=True):
        tiny_model(padded, attention_mask=mask)
