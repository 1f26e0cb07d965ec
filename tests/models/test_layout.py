"""Blocks: a model whose parts are not found is refused with the place to mend."""

import copy

import pytest

from asa.models.layout import final_norm


def test_an_unknown_final_norm_is_named(tiny_llama):
    """A model of another build is refused with the place to mend."""
    model = copy.deepcopy(tiny_llama)
    model.model.last_norm = model.model.norm
    del model.model.norm
    with pytest.raises(ValueError, match="no final norm found in LlamaModel"):
        final_norm(model)
