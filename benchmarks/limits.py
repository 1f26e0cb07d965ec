"""The distance to the limit: floating-point operations a second of extraction and decoding over the machine's own rate.

The machine's rate is that of a large fp32 linear layer as the engine runs it, with the same threads. Operations are
counted by torch, only those of matrix products and attention; where the time goes is read off torch's profiler.
Counting and profiling slow a run down, so seconds come from a run without them.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bench import Bench, spread, timed
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from asa.engine.batch import Batch
from asa.engine.engine import Engine
from asa.engine.linears import fast_linears
from asa.engine.states import read_batch

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear_pointwise")
COPIES = ("aten::copy_", "aten::cat", "aten::index", "aten::constant_pad_nd", "aten::fill_")


@dataclass(frozen=True)
class Limit:
    """How near a piece of work comes to the machine's rate.

    Attributes:
        work: What ran.
        seconds: It took.
        flop: Floating-point operations it needs.
        shares: Kind of operation -> share of the profiled time.
    """

    work: str
    seconds: float
    flop: int
    shares: dict[str, float]


def machine_rate(size: int = 2048, rounds: int = 9) -> float:
    """FLOP/s of a square fp32 linear layer and as many states, median."""
    layer, states = torch.nn.Linear(size, size, bias=False), torch.randn(size, size)
    with torch.inference_mode(), fast_linears(layer):
        layer(states)
        return 2 * size**3 / statistics.median(timed(layer, states)[0] for _ in range(rounds))


def limit_of(work: str, run: Callable[[], object]) -> Limit:
    """Run something three times: for its seconds, its operations and its profile."""
    seconds, _ = timed(run)
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:  # it counts aten's only
        run()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        whole, _ = timed(run)
    own = {event.key: event.self_cpu_time_total / 1e6 for event in profiled.key_averages()}
    products, copies = (sum(own.get(name, 0.0) for name in names) / whole for names in (PRODUCTS, COPIES))
    tensors = sum(own.values()) / whole
    shares = {
        "matrix products": products,
        "copies and joins": copies,
        "other tensor operations": tensors - products - copies,
        "Python": max(0.0, 1 - tensors),
    }
    return Limit(work, seconds, counter.get_total_flops(), shares)


def measure_limits(bench: Bench, rows: int, steps: int) -> tuple[float, list[Limit]]:
    """The machine's rate, and extraction and decoding of `rows` requests, `steps` new tokens each."""
    everything = bench.everything
    prompts = [everything[row] for row in spread(everything, rows)]
    engine = Engine(bench.model, bench.prefix)
    batches: list[Batch] = []

    def extract() -> None:
        batches[:] = engine.batches(prompts, "limit")
        for batch in batches:
            read_batch(batch, bench.trigger_id)

    def decode() -> None:
        for batch in batches:
            batch.decode(steps, lambda _answer: False)

    return machine_rate(), [
        limit_of(f"extraction, {len(prompts)} requests behind the shared prefix", extract),
        limit_of(f"decoding, {len(prompts)} rows, {steps} tokens", decode),
    ]


def in_words(rate: float, limits: list[Limit]) -> str:
    """Markdown: each work's rate over the machine's, and a paragraph on where the rest goes."""
    lines = [
        f"An fp32 matrix product (2,048 x 2,048) runs at {rate / 1e9:.0f} GFLOP/s with {torch.get_num_threads()} "
        "threads. Of that rate:",
        "",
        "| work | s | GFLOP | GFLOP/s | of the machine's rate |",
        "|---|---|---|---|---|",
    ]
    for limit in limits:
        speed = limit.flop / limit.seconds
        row = (
            limit.work,
            f"{limit.seconds:.2f}",
            f"{limit.flop / 1e9:.0f}",
            f"{speed / 1e9:.0f}",
            f"{speed / rate:.0%}",
        )
        lines.append("| " + " | ".join(row) + " |")
    said = [
        f"{limit.work.split(',')[0]} spends {', '.join(f'{share:.0%} on {k}' for k, share in limit.shares.items())}"
        for limit in limits
    ]
    lines += [
        "",
        f"Where the time goes, by torch's profiler: {'; '.join(said)}. The products themselves run below the large "
        "product's rate where they are thin: a decoding step multiplies each weight matrix with one row a request, and "
        "attention's products are as narrow as a head.",
    ]
    return "\n".join(lines)
