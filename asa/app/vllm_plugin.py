"""The vLLM plugin: an adapter behind vLLM's own server, with its batching, chunked prefill and prefix cache.

    ASA_ADAPTER=outputs/asa_assets vllm serve MODEL --enforce-eager

vLLM (0.32 was tested) loads every plugin of `vllm.general_plugins` in each of its processes; without `ASA_ADAPTER`
nothing happens. The adapter reads and pushes one block, once per request, at its last prompt token, wherever that lies
in the flat batch; only prompts that begin as those of the fit are steered. A request leaves it out with
`vllm_xargs: {"asa": 0}`, or sets `asa_tau` and `asa_dose`. Prompts and calls are `vllm_requests`' and `vllm_calls`'.
"""

import logging
import os
from functools import lru_cache
from typing import Any

import torch

from asa.adapter import ASAAdapter
from asa.adapter.decision import AdapterError
from asa.app.vllm_patches import keep_steered_blocks_apart, refuse_odd_options, rotate_all_heads
from asa.app.vllm_process import CHECKED, VARIABLE, adapter_of_process, decided_counter, is_steered, tuning_in
from asa.models.known_prompts import begins_as
from asa.models.layout import CausalModel

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
    keep_steered_blocks_apart()
    refuse_odd_options()
    rotate_all_heads()
    _name_tool_parser()


class Served:
    """Steers the requests of one model runner.

    Args:
        adapter: Fitted on the model.
        runner: vLLM's `GPUModelRunner`, on a CPU too.
        tells: Whether it logs and counts; of processes that share the layers, one does.
    """

    def __init__(self, adapter: ASAAdapter, runner: Any, tells: bool = True):
        self.adapter, self.runner, self.tells = adapter, runner, tells
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
        return prompt is not None and begins_as(prompt, self.adapter.config.get("prefix"))

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
                adapter = self._tuned(*tuning_in(extra))
            delta, (decision,) = adapter.push(state[None])
            hidden[place] += delta[0].to(hidden.dtype)
            if self.tells:
                log.info("%s: %s", self.runner.input_batch.req_ids[row], decision)
                decided_counter().labels(decision.domain, decision.gate).inc()
        return output


def check_model(adapter: ASAAdapter, model: str, revision: str = "main") -> None:
    """Refuse a checkpoint that the adapter was not fitted on; it is loaded once more, by transformers, on the CPU.

    Raises:
        AdapterError: It is another one.
    """
    from transformers import AutoModelForCausalLM

    loaded: CausalModel = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
        model, revision=revision, dtype="auto"
    )
    adapter.check_model(loaded)


def _steer_after_loading() -> None:
    from vllm.distributed import get_tensor_model_parallel_rank
    from vllm.v1.worker.gpu_worker import Worker

    load = Worker.load_model

    def load_and_steer(worker: Any, **options: Any) -> None:
        load(worker, **options)
        adapter, runner = adapter_of_process(), worker.model_runner
        if os.environ.get(CHECKED) != runner.model_config.model:
            check_model(adapter, runner.model_config.model, runner.model_config.revision or "main")
        Served(adapter, runner, tells=get_tensor_model_parallel_rank() == 0).attach()

    Worker.load_model = load_and_steer


def _name_tool_parser() -> None:
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.register_lazy_module("asa", "asa.app.vllm_calls", "CallParser")
