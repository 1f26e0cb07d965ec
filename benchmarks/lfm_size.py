"""The real size: LFM2.5-1.2B's exact shape with random weights, `python benchmarks/lfm_size.py`.

Times prefix, extraction, replay and decoding through the engine's own calls and writes `lfm_size.md` beside this
file: on a GPU in fp16 and bf16 with all 1,600 prompts, on a CPU in fp32 and bf16 with a few. Operations, bytes and
launches are counted on the same calls under fake tensors. So are those of the whole run at its full size, and from
them the seconds and the memory on a T4 are computed. Random weights say nothing about quality: nothing is scored.
"""

import contextlib
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import transformers
from memory import megabytes  # its imports put the checkout on the path
from t4 import CARDS, Counts, OpCounter, Stage, estimate
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import pad
from transformers import AutoModelForCausalLM, Lfm2Config

from asa.caches import join_caches
from asa.checkpoints import write_atomic
from asa.engine import Batch, Engine
from asa.probes import LayerReading, choose_probe, fit_readers, sweep_layers
from asa.profiles import LFM25
from asa.tuning import BETAS, DOSES, layers_to_steer
from asa.vectors import DIRECTIONS

HERE = Path(__file__).parent
PARAMETERS = 1_170_340_608


@dataclass(frozen=True)
class Sizes:
    """How much is measured and computed.

    Attributes:
        prompts: Prompts of extraction and replay.
        rows: Batch sizes of decoding.
        steps: Tokens decoded.
        product: Side of the square matrices whose product is the peak.
        split: CAL, TRAIN and VALID prompts of the computed run; TEST has twice as many.
    """

    prompts: int
    rows: tuple[int, ...]
    steps: int
    product: int
    split: int = 320


ON_CPU, ON_GPU = Sizes(12, (1, 8), 4, 2048), Sizes(1600, (1, 8, 16, 32, 64), 32, 8192)


def stages_of(work: Work, sizes: Sizes) -> list[tuple[str, Callable[[], None]]]:
    """What is measured, in order."""

    def decode(rows: int) -> None:
        work.decode([work.batches[0].select(list(range(rows)))], sizes.steps, sizes.steps)

    count, depth = len(work.prompts), work.model.config.num_hidden_layers
    return [
        (f"prefix, {PREFIX} tokens", work.prefix),
        (f"extraction, {count:,} prompts", work.extract),
        *[
            (f"replay, {count:,} prompts, pushed at layer {layer}", partial(work.replay, layer))
            for layer in (depth // 4, depth // 2)
        ],
        *[(f"decoding, batch {rows}, {sizes.steps} tokens", partial(decode, rows)) for rows in sizes.rows],
    ]


def seconds_of(run: Callable[[], object], rounds: int = 2) -> float:
    """The best of a few rounds; the first one warms up."""
    best = math.inf
    for _ in range(rounds):
        wait_for_gpu()
        started = time.perf_counter()
        run()
        wait_for_gpu()
        best = min(best, time.perf_counter() - started)
    return best


def wait_for_gpu() -> None:
    """Let a GPU finish what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peaks_of(size: int, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """FLOP/s of a large matrix product and bytes/s of a large copy, on this device."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product, copy = seconds_of(lambda: left @ right, 7), seconds_of(lambda: target.copy_(source), 7)
    return 2 * size**3 / product, 2 * source.nbytes / copy


def peak_gigabytes(reset: bool = False) -> float:
    """Most memory used since the last reset: allocated on the GPU, or held by this process (Linux)."""
    if torch.cuda.is_available():
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 1e9
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return megabytes("VmHWM") * 2**20 / 1e9


def count_stages(config, dtype: torch.dtype, prompts: list[list[int]], sizes: Sizes) -> list[Counts]:
    """What each measured stage costs, counted on fake tensors."""
    with FakeTensorMode():
        work, counter = Work(make_model(config, dtype, "cpu"), prompts), OpCounter()
        with counter:
            return [(run(), counter.take()[0])[1] for _, run in stages_of(work, sizes)]


def measure(config, model, dtype: torch.dtype, sizes: Sizes) -> list[str]:
    """Rows of the measured table for one dtype; says on stdout how it goes."""
    name, device = str(dtype).removeprefix("torch."), model.device.type
    prompts = draw_prompts(sizes.prompts, config.vocab_size)
    fastest, copying = peaks_of(sizes.product, dtype, device)
    counted = count_stages(config, dtype, prompts, sizes)
    peak_gigabytes(reset=True)
    rows = []
    for (stage, run), counts in zip(stages_of(Work(model, prompts), sizes), counted, strict=True):
        took = seconds_of(run)
        flops, moved = counts.flop / took, counts.moved / took
        cells = [
            name, stage, f"{took:.3f}", f"{counts.flop / 1e9:,.0f}", f"{flops / 1e9:,.0f}", f"{flops / fastest:.0%}",
            f"{counts.moved / 1e9:,.1f}", f"{moved / 1e9:,.0f}", f"{moved / copying:.0%}", f"{counts.launches:,.0f}",
        ]  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    said = f"{name}: peak memory {peak_gigabytes():.2f} GB with the weights; a product of two {sizes.product:,} x "
    said += f"{sizes.product:,} matrices runs at {fastest / 1e12:.2f} TFLOP/s, a copy at {copying / 1e9:.0f} GB/s."
    return [*rows, said]
