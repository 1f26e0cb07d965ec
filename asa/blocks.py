"""Blocks: where a causal language model keeps its decoder blocks and what they put out.

Every model of transformers names these parts a little differently; whoever reads or pushes a hidden state finds them
here. Nothing else about a model is known in this file, and no model is run.
"""

import contextlib
from collections.abc import Iterator

import torch


def decoder_layers(model) -> torch.nn.ModuleList:
    """The decoder blocks of a causal language model, in order."""
    return model.get_decoder().layers


def block_output(output) -> torch.Tensor:
    """The hidden state in a decoder block's output, which is a tensor or a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


@contextlib.contextmanager
def hooked(*handles) -> Iterator[None]:
    """Remove hook handles at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def final_norm(model) -> torch.nn.Module:
    """The norm between the last block and the unembedding.

    Raises:
        ValueError: The decoder has none under a known name.
    """
    decoder = model.get_decoder()
    for name in ("norm", "embedding_norm", "final_layernorm"):
        if hasattr(decoder, name):
            return getattr(decoder, name)
    raise ValueError(f"no final norm found in {type(decoder).__name__}; add its name to asa/blocks.py.")
