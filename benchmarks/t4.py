"""The whole run on a T4, computed: the counts of its stages, made seconds by an arithmetic that a reader can redo.

scikit-learn's fits and the cost of a launch are timed here, on this CPU. What can be neither counted nor timed without
the card is assumed: it stands in the constants below, each with what it means, and in the table.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from bench import timed
from counting import Counts, OpCounter
from shape import Work, draw_prompts, make_model, parameters_of
from stages import TRIGGER_ROOM, Stage, count_run
from transformers import Lfm2Config

from asa.method.layers import MOST_LAYERS, sweep_layers
from asa.method.probes import choose_probe, fit_readers
from asa.models.profiles import LFM25

DOMAINS = ["math", "code", "search", "translation"]
BUDGET_SECONDS, BUDGET_BYTES = 600, 8e9
DOWNLOAD = 50e6  # bytes/s from the hub, assumed
NARROW = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
READING = 200e6  # bytes/s from disk to the card, assumed
STOP_RULE = 50e-6  # seconds to decode a row's last tokens and look for an end, assumed
SLOWER = 2  # times longer scikit-learn takes on the T4 machine's two cores than here, assumed
AROUND = 60  # seconds for imports, missing packages, Alpaca, tokenising, figures and report, assumed
CONTEXT = 0.6e9  # bytes of CUDA context and libraries, assumed
FRAGMENTED = 0.2  # share of what is held beyond the weights that the allocator holds on top, assumed


@dataclass(frozen=True)
class Card:
    """A GPU's published peaks, and what share of them is assumed to be reached.

    Attributes:
        name: Of the card.
        flops: Peak FLOP/s.
        mfu: Share of it that matrix products reach.
        bandwidth: Peak bytes/s.
        share: Share of it that is reached.
        launch: Seconds on the CPU's side for one kernel, Python included.
        around: Factor on the seconds of all that the card has no part in.
    """

    name: str
    flops: float
    mfu: float
    bandwidth: float
    share: float
    launch: float
    around: float

    def seconds(self, counts: Counts) -> float:
        """Time for arithmetic, for memory and for launches, one after the other as if nothing overlapped.

        >>> round(Card("", 10e12, 0.5, 1e9, 0.5, 1e-3, 1).seconds(Counts(10e12, 1e9, 1000)), 6)
        5.0
        """
        products = counts.flop / (self.flops * self.mfu)
        memory = counts.moved / (self.bandwidth * self.share)
        return products + memory + counts.launches * self.launch


CARDS = (
    Card("expected", 65e12, 0.25, 320e9, 0.7, 25e-6, 1),
    Card("half as fast", 65e12, 0.125, 320e9, 0.35, 50e-6, 2),
)


def time_fits(config, split: int, spare: int) -> float:
    """Seconds of scikit-learn's part on this machine: layer sweep, choice of the probe, readers of every layer tried.

    The states are random, with a few strong common factors as real ones have, and labels that can be read from them.
    """
    rng = np.random.default_rng(0)
    depth, width, rows = config.num_hidden_layers, config.hidden_size, 3 * split + spare
    factors = rng.standard_normal((rows, 32))
    states = (factors @ rng.standard_normal((depth, 32, width)) + rng.standard_normal((depth, rows, width))).astype(
        np.float32
    )
    states = states.transpose(1, 0, 2)
    labels = (factors[:, 0] + 0.5 * rng.standard_normal(rows) > 0).astype(int)
    domains = [DOMAINS[row % 4] for row in range(rows)]
    fit, known, valid = slice(0, 2 * split), slice(0, rows - split), slice(rows - split, rows)

    def everything() -> None:
        sweep_layers(states[fit], labels[fit], states[valid], labels[valid], 0)
        strength, own = choose_probe(
            states[known, -1], labels[known], domains[known], states[valid, -1], labels[valid], DOMAINS
        )
        for layer in range(MOST_LAYERS):
            fit_readers(states[known, layer % depth], labels[known], domains[known], DOMAINS, strength, own)

    print("timing scikit-learn's fits", flush=True)
    return timed(everything)[0]


def launch_seconds(config) -> float:
    """Seconds of a launch on this CPU, by a narrow model of the same layers, its Python and its arithmetic included."""
    narrow = Lfm2Config(**config.to_dict() | NARROW)
    work = Work(make_model(narrow, torch.float32, "cpu"), draw_prompts(1, narrow.vocab_size))
    work.prefix()
    work.extract()
    work.decode(work.batches, 32, 32)
    took, _ = timed(work.decode, work.batches, 32, 32)
    return took / OpCounter().count(partial(work.decode, work.batches, 32, 32))[0].launches


def estimate(config, split: int, spare: int) -> str:
    """Markdown: the computed run, stage by stage, with totals and memory."""
    stages, fits = count_run(config, split, spare), time_fits(config, split, spare)
    launch = launch_seconds(config)
    weights = 2 * parameters_of(config)
    tokens = 2 * TRIGGER_ROOM * split + 3 * LFM25.max_new_tokens * 2 * split
    fixed = [
        ("download", weights / DOWNLOAD, f"{weights / 1e9:.2f} GB at {DOWNLOAD / 1e6:.0f} MB/s"),
        ("loading", weights / READING, f"{weights / 1e9:.2f} GB at {READING / 1e6:.0f} MB/s"),
        ("scikit-learn's fits", SLOWER * fits, f"{fits:.1f} s here, times {SLOWER}"),
        ("stop rule", STOP_RULE * tokens, f"{tokens:,} tokens at {STOP_RULE * 1e6:.0f} us"),
        ("all around", AROUND, "imports, missing packages, Alpaca, tokenising, figures, report: assumed"),
    ]
    return in_words(stages, fixed, weights, launch)


def seconds_of(stage: Stage, card: Card) -> float:
    """All times of a stage."""
    return stage.times * card.seconds(stage.counts)


def stage_table(stages: list[Stage]) -> str:
    """Markdown: counts of one time, and each card's seconds for all times."""
    columns = ["stage", "times", "GFLOP", "GB moved", "launches", "GB held", *(f"s, {card.name}" for card in CARDS)]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for stage in stages:
        counts, spent = stage.counts, [f"{seconds_of(stage, card):.1f}" for card in CARDS]
        cells = [stage.name, str(stage.times), f"{counts.flop / 1e9:,.0f}", f"{counts.moved / 1e9:,.1f}"]
        cells += [f"{counts.launches:,.0f}", f"{stage.peak / 1e9:.2f}"]
        lines.append("| " + " | ".join([*cells, *spent]) + " |")
    return "\n".join(lines)


def in_words(stages: list[Stage], fixed: list[tuple[str, float, str]], weights: int, launch: float) -> str:
    """Markdown of the computed run.

    Args:
        stages: What the card does.
        fixed: Name, seconds and reason of all else.
        weights: Bytes of the model.
        launch: Seconds of a launch, measured on this CPU.
    """
    around = sum(seconds for _, seconds, _ in fixed)
    totals = [card.around * around + sum(seconds_of(stage, card) for stage in stages) for card in CARDS]
    most = max(stages, key=lambda stage: stage.peak)
    slack = FRAGMENTED * (most.peak - weights)
    memory = most.peak + slack + CONTEXT
    lines = [
        "Seconds = times x (FLOP / (peak x share) + bytes / (bandwidth x share) + launches x cost of one), as if "
        "nothing overlapped. Peaks are the published ones; shares and costs are assumed, once as we expect and once "
        f"half as good. On this CPU a launch took {launch * 1e6:.0f} us, Python included (a narrow model of the same "
        "layers). Every answer is taken to run to its limit and every gate to be open.",
        "",
        "| assumed | FLOP/s | bytes/s | a launch |",
        "|---|---|---|---|",
        *[
            f"| {card.name} | {card.flops / 1e12:.0f} T x {card.mfu:g} | {card.bandwidth / 1e9:.0f} G x "
            f"{card.share:g} | {card.launch * 1e6:.0f} us |"
            for card in CARDS
        ],
        "",
        stage_table(stages),
        "",
        f"| all else | {' | '.join(f's, {card.name}' for card in CARDS)} | how |",
        "|" + "---|" * (2 + len(CARDS)),
        *[
            f"| {name} | {' | '.join(f'{card.around * seconds:.1f}' for card in CARDS)} | {why} |"
            for name, seconds, why in fixed
        ],
        f"| **the whole run** | {' | '.join(f'**{total:.0f}**' for total in totals)} | "
        f"{' and '.join(_within(total, BUDGET_SECONDS) for total in totals)} {BUDGET_SECONDS} s |",
        "",
        "| memory on the card | GB | how |",
        "|---|---|---|",
        f"| weights | {weights / 1e9:.2f} | fp16 |",
        f"| caches, states, scores, room for answers | {(most.peak - weights) / 1e9:.2f} | most held at once, counted: "
        f"{most.name} |",
        f"| allocator's slack | {slack / 1e9:.2f} | {FRAGMENTED:.0%} of that, assumed |",
        f"| CUDA context and libraries | {CONTEXT / 1e9:.2f} | assumed |",
        f"| **in all** | **{memory / 1e9:.2f}** | {_within(memory, BUDGET_BYTES)} {BUDGET_BYTES / 1e9:.0f} GB |",
    ]
    return "\n".join(lines)


def _within(value: float, budget: float) -> str:
    return "below" if value < budget else "NOT below"
