"""The real size: LFM2.5-1.2B's exact shape with random weights, `python benchmarks/lfm_size.py`.

Times prefix, extraction, replay and decoding through the engine's own calls and writes `lfm_size.md` beside this
file: on a GPU in fp16 and bf16 with all 1,600 prompts, on a CPU in fp32 with a few. Operations, bytes and
launches are counted on the same calls on the meta device. So are those of the whole run at its full size, and from
them the seconds and the memory on a T4 are computed. Random weights say nothing about quality: nothing is scored.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from bench import processor
from counting import Counts, OpCounter
from memory import megabytes
from shape import PREFIX, Work, draw_prompts, make_model, parameters_of, real_config
from t4 import estimate

from asa.support.files import write_atomic

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
        spare: Its prompts for the readers alone.
    """

    prompts: int
    rows: tuple[int, ...]
    steps: int
    product: int
    split: int = 320
    spare: int = 1170


ON_CPU, ON_GPU = Sizes(8, (1, 8), 4, 2048), Sizes(1600, (1, 8, 16, 32, 64), 32, 8192)


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
    """What each measured stage costs, counted on the meta device."""
    work, counter = Work(make_model(config, dtype, "meta"), prompts), OpCounter()
    return [counter.count(run)[0] for _, run in stages_of(work, sizes)]


def measure(model, dtype: torch.dtype, sizes: Sizes) -> tuple[list[str], str]:
    """The table's rows for one dtype, and a sentence on peaks and memory; says on stdout how it goes."""
    name, device = str(dtype).removeprefix("torch."), model.device.type
    prompts = draw_prompts(sizes.prompts, model.config.vocab_size)
    counted = count_stages(model.config, dtype, prompts, sizes)
    fastest, copying = peaks_of(sizes.product, dtype, device)
    peak_gigabytes(reset=True)
    rows = []
    for (stage, run), counts in zip(stages_of(Work(model, prompts), sizes), counted, strict=True):
        took = seconds_of(run)
        flops, moved = counts.flop / took, counts.moved / took
        cells = [
            name, stage, f"{took:.3f}", f"{counts.flop / 1e9:,.1f}", f"{flops / 1e9:,.0f}", f"{flops / fastest:.0%}",
            f"{counts.moved / 1e9:,.1f}", f"{moved / 1e9:,.0f}", f"{moved / copying:.0%}", f"{counts.launches:,.0f}",
        ]  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    return rows, (
        f"{name}: peak memory {peak_gigabytes():.2f} GB, weights included. The product of two matrices of "
        f"{sizes.product:,} x {sizes.product:,} runs at {fastest / 1e9:,.0f} GFLOP/s, a copy at "
        f"{copying / 1e9:,.0f} GB/s."
    )


def machine() -> str:
    """The card's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return processor()


def dtypes() -> tuple[torch.dtype, ...]:
    """What is measured here: fp32 on a CPU, fp16 and, where the card computes in it, bf16 on a GPU."""
    if not torch.cuda.is_available():
        return (torch.float32,)  # bf16 products take minutes on a CPU without instructions for them
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return (torch.float16, torch.bfloat16) if has_bf16 else (torch.float16,)


def benchmark(config, sizes: Sizes, out: Path) -> None:
    """Measure, compute and write the table to `out`."""
    rows, said = [], []
    print("building the model", flush=True)
    model = make_model(config, dtypes()[0], "cuda" if torch.cuda.is_available() else "cpu")
    for dtype in dtypes():
        for parameter in model.parameters():  # one after the other, so that two models are never held
            parameter.data = parameter.data.to(dtype)
        more, sentence = measure(model, dtype, sizes)
        rows += more
        said.append(f"- {sentence}")
    del model
    print("computing the whole run on a T4", flush=True)
    text = f"""# The real size

`python benchmarks/lfm_size.py` wrote this: LFM2.5-1.2B's shape, {parameters_of(config):,} parameters, random weights; \
{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}. \
Prompts are random tokens behind one prefix of {PREFIX}, with own lengths as the benchmark's requests have them.

## Measured

| dtype | work | s | GFLOP | GFLOP/s | of peak | GB moved | GB/s | of copy rate | launches |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

The best of two runs each. FLOP are those of matrix products and convolutions; bytes are all operands and results of \
all operations, some of which never leave the processor's caches. "Of peak" is against a large product in the same \
dtype, "of copy rate" against a large copy, both measured on the same device.

{chr(10).join(said)}

## Computed: the whole run on a T4

Nothing in this part was timed on a T4. {estimate(config, sizes.split, sizes.spare)}
"""
    write_atomic(out, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    print(text)


def main() -> None:
    """Run the command."""
    config = real_config()
    found = parameters_of(config)
    assert found == PARAMETERS, f"the configuration has {found:,} parameters, not {PARAMETERS:,}: correct its shape."
    benchmark(config, ON_GPU if torch.cuda.is_available() else ON_CPU, HERE / "lfm_size.md")


if __name__ == "__main__":
    main()
