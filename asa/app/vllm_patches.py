"""Patches: vLLM's own functions, wrapped where a plugin has no other way (0.32 was tested)."""

from typing import Any

import torch

from asa.adapter.decision import AdapterError
from asa.app.vllm_process import adapter_of_process, is_steered, tuning_in


def keep_steered_blocks_apart() -> None:
    """From the block of its last prompt token on, what a steered request caches is its own."""
    from vllm.v1.core import block_pool, kv_cache_utils

    own = kv_cache_utils.generate_block_hash_extra_keys

    def keys(request: Any, start: int, end: int, first_image: int) -> tuple[tuple | None, int]:
        found, following = own(request, start, end, first_image)
        if end >= request.num_prompt_tokens and request_is_steered(request):
            found = (*(found or ()), ("asa", request.request_id))
        return found, following

    for module in (kv_cache_utils, block_pool):
        module.generate_block_hash_extra_keys = keys


def request_is_steered(request: Any) -> bool:
    """Whether a request of the scheduler is steered; one that is only embedded is not."""
    return request.sampling_params is not None and is_steered(request.sampling_params.extra_args)


def refuse_odd_options() -> None:
    """Refuse a request whose gate or dose cannot be, before it reaches the engine, which would end by it."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    check = InputProcessor._validate_params

    def checked(processor: Any, params: Any, *more: Any) -> Any:
        try:
            tau, dose = tuning_in(getattr(params, "extra_args", None))
            if (tau, dose) != (None, None):
                adapter_of_process().tuned(tau, dose)
        except AdapterError as error:
            raise VLLMValidationError(str(error), parameter="vllm_xargs") from error
        return check(processor, params, *more)

    InputProcessor._validate_params = checked


def rotate_all_heads() -> None:
    """Mend vLLM 0.32 on a CPU for LFM2, whose answers were wrong there with or without an adapter.

    Its kernel takes queries and keys as `[tokens, heads * size]`; LFM2's blocks hand it `[tokens, heads, size]`, of
    which it rotates the first few tokens alone.
    """
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

    rotate = RotaryEmbedding.forward_cpu

    def rotated(layer: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None) -> tuple:
        found = rotate(layer, positions, query.flatten(1), None if key is None else key.flatten(1))
        return tuple(
            given if given is None or turned is None else turned.view(given.shape)
            for turned, given in zip(found, (query, key), strict=True)
        )

    RotaryEmbedding.forward_cpu = rotated
