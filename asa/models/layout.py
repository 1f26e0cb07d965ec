"""Blocks: where a causal language model keeps its decoder blocks and what they put out.

Every model of transformers names these parts a little differently; whoever reads or pushes a hidden state finds them
here. Nothing else about a model is known in this file, and no model is run.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    class CausalModel(PreTrainedModel):
        """A causal language model of transformers, which has no one class for them: for types only."""

        config: Any  # every family has a class of its own
        lm_head: torch.nn.Module
        generate: Callable[..., torch.Tensor]

        def get_input_embeddings(self) -> torch.nn.Embedding: ...  # noqa: D102
else:
    CausalModel = torch.nn.Module


def decoder_layers(model: CausalModel) -> torch.nn.ModuleList:
    """The decoder blocks of a causal language model, in order."""
    return model.get_decoder().layers


def cache_name(given: Collection[str]) -> str:
    """The name of the cache among the arguments of a forward call: another one from transformers 5.24 on.

    >>> cache_name({"input_ids": 0, "past_key_values": 0}), cache_name({"input_ids": 0, "cache": 0})
    ('past_key_values', 'cache')
    """
    return "cache" if "cache" in given else "past_key_values"


def block_output(output: torch.Tensor | tuple) -> torch.Tensor:
    """The hidden state in a decoder block's output, which is a tensor or a tuple that starts with it."""
    return output[0] if isinstance(output, tuple) else output


def is_compiled(model: CausalModel, within: torch.nn.Module | None = None) -> bool:
    """Whether `torch.compile` wraps a part that holds a model's blocks: a hook that is set later may go unseen.

    Blocks that are compiled one by one do not count: a block's own hooks run outside of its compiled code.

    Args:
        model: The model.
        within: A module around it, if there is one.
    """
    layers = decoder_layers(model)
    return any(
        layers in module.modules()
        for module in (model if within is None else within).modules()
        if hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(module.forward, "_torchdynamo_orig_callable")
    )


def input_device(model: CausalModel) -> torch.device:
    """Where a model takes its inputs: where its weights are or, where accelerate offloads them, where it runs them."""
    if model.device.type != "meta":
        return model.device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    return torch.device(next(place for hook in hooks if (place := getattr(hook, "execution_device", None)) is not None))


@contextlib.contextmanager
def hooked(*handles: RemovableHandle) -> Iterator[None]:
    """Remove hook handles at the end, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def unembed(model: CausalModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits `[..., vocabulary]` of states `[..., H]` behind the final norm, scaled or capped as the family does it.

    Cohere's have a factor, Granite's a divisor, Gemma's may be capped; all have a key of their own in the config.
    """
    logits, config = model.lm_head(hidden), model.config
    if (scale := getattr(config, "logit_scale", None)) is not None:
        logits = logits * scale
    if (divisor := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / divisor
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = cap * torch.tanh(logits / cap)
    return logits


def final_norm(model: CausalModel) -> torch.nn.Module:
    """The norm between the last block and the unembedding.

    Raises:
        ValueError: The decoder has none under a known name.
    """
    decoder = model.get_decoder()
    for name in ("norm", "embedding_norm", "final_layernorm"):
        if hasattr(decoder, name):
            return getattr(decoder, name)
    raise ValueError(f"no final norm found in {type(decoder).__name__}; add its name to asa/models/layout.py.")
