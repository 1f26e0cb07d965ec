"""How cost grows: with requests, the shared prefix, sweep settings and the rows of a batch; one log-log figure.

Cost depends on the number of tokens and not on what they say, so prompts here are random tokens, and short, to reach
large numbers soon. The slope of a line in the figure is the power with which cost grows: 1 is in proportion.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from bench import Bench, timed

from asa.engine.engine import Engine
from asa.engine.states import read_prompts, read_states
from asa.evaluation.figures import save_figure
from asa.method.steering import replay_triggers

OWN = 4  # tokens of a prompt behind the prefix
SHORT_PREFIX = 50
NEW_TOKENS = 16


@dataclass(frozen=True)
class Growth:
    """One line of the figure.

    Attributes:
        what: What grows.
        fixed: What stays as it is.
        sizes: Its numbers.
        seconds: What they cost.
    """

    what: str
    fixed: str
    sizes: list[int]
    seconds: list[float]

    def slope(self, last: int = 0) -> float:
        """Power with which cost grows, fitted to all points or to the `last` ones."""
        return float(np.polyfit(np.log(self.sizes[-last:]), np.log(self.seconds[-last:]), 1)[0])


def sizes_between(lowest: int, highest: int, factor: int) -> list[int]:
    """`lowest`, times `factor`, ... up to `highest`, which is always the last.

    >>> sizes_between(50, 2000, 4)
    [50, 200, 800, 2000]
    """
    sizes = []
    while lowest < highest:
        sizes.append(lowest)
        lowest *= factor
    return [*sizes, highest]


def random_prompts(bench: Bench, count: int, prefix: int) -> list[list[int]]:
    """`count` prompts that share `prefix` random tokens and have `OWN` more, all ordinary words of the vocabulary."""
    rng = random.Random(0)
    words = range(50, bench.model.config.vocab_size)
    shared = rng.choices(words, k=prefix)
    return [[*shared, *rng.choices(words, k=OWN)] for _ in range(count)]


def measure_growth(bench: Bench, largest: tuple[int, int, int, int]) -> list[Growth]:
    """Every line of the figure up to the `largest` number of requests, prefix tokens, settings and rows."""
    requests, prefix, settings, rows = largest
    usual = len(bench.prefix)

    def states(count: int, shared: int) -> float:
        prompts = random_prompts(bench, count, shared)
        return timed(lambda: read_states(Engine(bench.model, prompts[0][:shared]), prompts, 0, f"{count} x {shared}"))[
            0
        ]

    def prepared(count: int):
        prompts = random_prompts(bench, count, SHORT_PREFIX)
        return read_prompts(Engine(bench.model, prompts[0][:SHORT_PREFIX]), prompts, 0, "growth")

    reading, swept = prepared(4)
    push = np.zeros_like(reading.states[:, 0])

    def sweep(count: int) -> float:
        layer = bench.adapter.layer
        return timed(lambda: [replay_triggers(swept, reading.states, layer, push, 0) for _ in range(count)])[0]

    def decode(count: int) -> float:
        _, batches = prepared(count)
        return timed(lambda: [batch.decode(NEW_TOKENS, lambda _answer: False) for batch in batches])[0]

    def line(what: str, fixed: str, sizes: Iterable[int], cost) -> Growth:
        sizes = list(sizes)
        cost(sizes[0])  # the first run of anything is slower
        return Growth(what, fixed, sizes, [cost(size) for size in sizes])

    return [
        line("requests", f"states, prefix {usual}, {OWN} own tokens", sizes_between(100, requests, 4),
             lambda count: states(count, usual)),
        line("prefix tokens", f"states of 64 requests, {OWN} own tokens", sizes_between(SHORT_PREFIX, prefix, 4),
             lambda shared: states(64, shared)),
        line("sweep settings", "replay of 4 requests, prefilled", sizes_between(1, settings, 10), sweep),
        line("rows of a batch", f"{NEW_TOKENS} new tokens, prefix {SHORT_PREFIX}", sizes_between(1, rows, 2), decode),
    ]  # fmt: skip


def plot_growth(lines: list[Growth], path: str | Path) -> None:
    """All lines in one log-log figure, with the slope that is growth in proportion."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    for line in lines:
        axes.loglog(line.sizes, line.seconds, "o-", label=f"{line.what} ({line.fixed}): slope {line.slope():.2f}")
    first = lines[0]
    shown = np.array([1, max(line.sizes[-1] for line in lines)])
    axes.loglog(shown, first.seconds[-1] * shown / first.sizes[-1], "k:", lw=1, label="in proportion: slope 1")
    axes.set(xlabel="how many", ylabel="seconds", title="How cost grows")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    save_figure(figure, path)
    plt.close(figure)


def in_words(lines: list[Growth]) -> str:
    """Markdown: a line on every slope."""
    said = []
    for line in lines:
        whole, end = line.slope(), line.slope(2)
        kind = "hardly grows" if end < 0.3 else "grows more slowly than in proportion"
        if end >= 0.85:
            kind = "grows in proportion" if end <= 1.15 else "grows faster than in proportion"
        points = ", ".join(f"{size:,}: {took:.3g} s" for size, took in zip(line.sizes, line.seconds, strict=True))
        said.append(
            f"- **{line.what}** ({line.fixed}): slope {whole:.2f}, at the end {end:.2f}: cost {kind}. {points}."
        )
    return "\n".join(said)
