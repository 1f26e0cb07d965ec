"""The vLLM plugin: an adapter behind vLLM's own server, with its batching, chunked prefill and prefix cache.

    ASA_ADAPTER=outputs/asa_assets vllm serve MODEL --enforce-eager

vLLM (0.32 was tested) loads every plugin of `vllm.general_plugins` in each of its processes; without `ASA_ADAPTER`
nothing happens. The adapter reads and pushes one block, once per request, at its last prompt token, wherever that lies
in the flat batch; only prompts that begin as those of the fit are steered. A request leaves it out with
`vllm_xargs: {"asa": 0}`, or sets `asa_tau` and `asa_dose`. Prompts and calls are `vllm_requests`' and `vllm_calls`'.
"""

import contextlib
import logging
import math
import os
from functools import lru_cache
from typing import Any

import torch

from asa.adapter import ASAAdapter
from asa.hook import AdapterError
from asa.models.known_prompts import begins_alike
from asa.models.layout import CausalModel
from asa.models.saved_profiles import profile_from_json

VARIABLE = "ASA_ADAPTER"
OFF = ("0", "false", "no", "off")
log = logging.getLogger("vllm.asa")


def register() -> None:
    """What vLLM calls in each process; does nothing unless `ASA_ADAPTER` names an adapter.

    Raises:
        AdapterError: It cannot be loaded.
    """
    if not os.environ.get(VARIABLE, "").strip():
        return
    adapter_of_process()  # a wrong name ends the start here
    _steer_after_loading()
    _keep_steered_blocks_apart()
    _refuse_odd_options()
    _name_tool_parser()
    _rotate_all_heads()


@lru_cache(1)
def adapter_of_process() -> ASAAdapter:
    """The adapter that `ASA_ADAPTER` names.

    Raises:
        AdapterError: It cannot be loaded.
    """
    return ASAAdapter.from_pretrained(os.environ[VARIABLE].strip())


@lru_cache(1)
def markers_of_process() -> tuple[str, str]:
    """What opens and closes a call of that adapter's model.

    Raises:
        ProfileError: The adapter does not say.
    """
    return profile_from_json(adapter_of_process().config.get("profile", {})).markers


@lru_cache(1)
def decided_counter() -> Any:
    """What `/metrics` says of the decisions: `asa_decisions_total`, by domain and gate."""
    from prometheus_client import Counter  # comes with vLLM

    return Counter("asa_decisions", "Decisions of the adapter.", ["domain", "gate"])


def is_steered(extra: Any) -> bool:
    """Whether a request with these extra arguments (None where it has none) is steered.

    >>> is_steered(None), is_steered({"asa": 0}), is_steered({"asa": 1})
    (True, False, True)
    """
    return str((extra or {}).get("asa", 1)).strip().lower() not in OFF


class Served:
    """Steers the requests of one model runner.

    Args:
        adapter: Fitted on the model.
        runner: vLLM's `GPUModelRunner`, on a CPU too.
    """

    def __init__(self, adapter: ASAAdapter, runner: Any):
        self.adapter, self.runner = adapter, runner
        self._tuned = lru_cache(64)(adapter.tuned)

    def attach(self) -> None:
        """Put the hook on the adapter's block; it stays.

        Raises:
            AdapterError: The block is not here, as under pipeline parallelism, or vLLM would not run the hook.
        """
        if not self.runner.model_config.enforce_eager:
            raise AdapterError("compiled models and CUDA graphs pass the adapter by: start vLLM with --enforce-eager.")
        layers = getattr(getattr(self.runner.model, "model", None), "layers", ())
        if not self.adapter.layer < len(layers) or not list(layers[self.adapter.layer].parameters()):
            raise AdapterError(f"block {self.adapter.layer} is not in this process: use --pipeline-parallel-size 1.")
        layers[self.adapter.layer].register_forward_hook(self._push)

    def last_tokens(self) -> list[tuple[int, int, dict]]:
        """(row of the batch, place in the flat batch, extra arguments) of steered requests whose prompts end now."""
        batch, found = self.runner.input_batch, []
        starts = self.runner.query_start_loc.np
        for row in range(batch.num_reqs):
            first = int(batch.num_computed_tokens_cpu[row])
            place = int(batch.num_prompt_tokens[row]) - 1 - first
            if not 0 <= place < int(starts[row + 1] - starts[row]):
                continue
            request = self.runner.requests[batch.req_ids[row]]
            extra = (request.sampling_params and request.sampling_params.extra_args) or {}
            if is_steered(extra) and self.knows(request.prompt_token_ids):
                found.append((row, int(starts[row]) + place, extra))
        return found

    def knows(self, prompt: list[int] | None) -> bool:
        """Whether a prompt begins as those that the adapter was fitted on; one of embeddings alone is not known."""
        return prompt is not None and begins_alike(prompt, self.adapter.config.get("prefix"))

    def _push(self, _block: torch.nn.Module, _given: tuple, output: Any) -> Any:
        """The block's output with the pushes added; vLLM's blocks give (hidden, residual), whose sum is the state."""
        found = self.last_tokens()
        if not found:
            return output
        hidden, residual = output if isinstance(output, tuple) else (output, None)
        for row, place, extra in found:
            state = hidden[place] if residual is None else hidden[place] + residual[place]
            adapter = self.adapter
            if "asa_tau" in extra or "asa_dose" in extra:
                adapter = self._tuned(*setting_in(extra))
            delta, (decision,) = adapter.push(state[None])
            hidden[place] += delta[0].to(hidden.dtype)
            log.info("%s: %s", self.runner.input_batch.req_ids[row], decision)
            decided_counter().labels(decision.domain, decision.gate).inc()
        return output


def is_steered_key(request: Any) -> bool:
    """Whether a request of the scheduler is steered; one that is only embedded is not."""
    return request.sampling_params is not None and is_steered(request.sampling_params.extra_args)


def setting_in(extra: Any) -> tuple[float | None, float | None]:
    """tau and dose in a request's extra arguments; None where it sets none.

    Raises:
        AdapterError: One is none that can be.

    >>> setting_in({"asa_tau": "0.7"})
    (0.7, None)
    """
    tau, dose = (extra or {}).get("asa_tau"), (extra or {}).get("asa_dose")
    return _number("asa_tau", tau, 0.5, 1.0, "0.5 or more and below 1"), _number(
        "asa_dose", dose, 0, math.inf, "0 or more"
    )


def _number(name: str, given: Any, low: float, end: float, allowed: str) -> float | None:
    """A number from `low` to below `end`; None where none is given."""
    with contextlib.suppress(TypeError, ValueError):
        if given is None or low <= float(given) < end:
            return None if given is None else float(given)
    raise AdapterError(f"{name} is {str(given)[:40]!r}: give a number, {allowed}.")


def check_model(adapter: ASAAdapter, model: str) -> None:
    """Refuse a checkpoint that the adapter was not fitted on; it is loaded once more, by transformers, on the CPU.

    Raises:
        AdapterError: It is another one.
    """
    from transformers import AutoModelForCausalLM

    loaded: CausalModel = AutoModelForCausalLM.from_pretrained(model, dtype="auto")  # type: ignore[assignment]
    adapter.check_model(loaded)


def _steer_after_loading() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    load = Worker.load_model

    def load_and_steer(worker: Any, **options: Any) -> None:
        load(worker, **options)
        adapter, runner = adapter_of_process(), worker.model_runner
        check_model(adapter, runner.model_config.model)
        Served(adapter, runner).attach()

    Worker.load_model = load_and_steer


def _refuse_odd_options() -> None:
    """Refuse a request whose gate or dose cannot be, before it reaches the engine, which would end by it."""
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.engine.input_processor import InputProcessor

    check = InputProcessor._validate_params

    def checked(processor: Any, params: Any, *more: Any) -> Any:
        try:
            tau, dose = setting_in(getattr(params, "extra_args", None))
            if (tau, dose) != (None, None):
                adapter_of_process().tuned(tau, dose)
        except AdapterError as error:
            raise VLLMValidationError(str(error), parameter="vllm_xargs") from error
        return check(processor, params, *more)

    InputProcessor._validate_params = checked


def _name_tool_parser() -> None:
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.register_lazy_module("asa", "asa.app.vllm_calls", "CallParser")


def _rotate_all_heads() -> None:
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


def _keep_steered_blocks_apart() -> None:
    """From the block of its last prompt token on, what a steered request caches is its own."""
    from vllm.v1.core import block_pool, kv_cache_utils

    own = kv_cache_utils.generate_block_hash_extra_keys

    def keys(request: Any, start: int, end: int, first_image: int) -> tuple[tuple | None, int]:
        found, following = own(request, start, end, first_image)
        if end >= request.num_prompt_tokens and is_steered_key(request):
            found = (*(found or ()), ("asa", request.request_id))
        return found, following

    for module in (kv_cache_utils, block_pool):
        module.generate_block_hash_extra_keys = keys
