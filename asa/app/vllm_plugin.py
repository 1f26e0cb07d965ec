"""The vLLM plugin: an adapter behind vLLM's own server, with its batching, chunked prefill and prefix cache.

    ASA_ADAPTER=outputs/asa_assets vllm serve MODEL --enforce-eager

vLLM (0.32 was tested) loads every plugin of `vllm.general_plugins` in each of its processes; without `ASA_ADAPTER`
nothing happens. The adapter reads and pushes one block, once per request, at its last prompt token, wherever that lies
in the flat batch. A request leaves it out with `vllm_xargs: {"asa": 0}`, or sets `asa_tau` and `asa_dose`. Tools and
calls are vLLM's.
"""

import logging
import os
from functools import lru_cache
from typing import Any

import torch

from asa.adapter import ASAAdapter
from asa.hook import AdapterError
from asa.models.layout import CausalModel

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


@lru_cache(1)
def adapter_of_process() -> ASAAdapter:
    """The adapter that `ASA_ADAPTER` names.

    Raises:
        AdapterError: It cannot be loaded.
    """
    return ASAAdapter.from_pretrained(os.environ[VARIABLE].strip())


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
            sampling = self.runner.requests[batch.req_ids[row]].sampling_params
            extra = (sampling and sampling.extra_args) or {}
            if is_steered(extra):
                found.append((row, int(starts[row]) + place, extra))
        return found

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
                adapter = self._tuned(_number(extra.get("asa_tau")), _number(extra.get("asa_dose")))
            delta, (decision,) = adapter.push(state[None])
            hidden[place] += delta[0].to(hidden.dtype)
            log.info("%s: %s", self.runner.input_batch.req_ids[row], decision)
        return output


def is_steered_key(request: Any) -> bool:
    """Whether a request of the scheduler is steered; one that is only embedded is not."""
    return request.sampling_params is not None and is_steered(request.sampling_params.extra_args)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


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
