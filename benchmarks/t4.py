"""The whole run on a T4, computed: counts of every stage at full size, made seconds by an arithmetic one can redo.

The run is what `pipeline.py` does with 1,600 requests and the profile `lfm2.5`. Its stages are counted through the
engine's own calls, in fp16, with every layer, prompt and setting that the pipeline has; scikit-learn's fits are timed
here. What cannot be counted or timed without the card stands in `ASSUMED` and `CARDS`, each with what it means.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from bench import timed
from counting import Counts, OpCounter
from shape import Work, draw_prompts, make_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import pad

from asa.caches import join_caches
from asa.engine import Batch
from asa.probes import LayerReading, choose_probe, fit_readers, sweep_layers
from asa.profiles import LFM25
from asa.tuning import BETAS, DOSES, layers_to_steer
from asa.vectors import DIRECTIONS

TRIGGER_ROOM = 4  # tokens of an answer on VALID: the trigger's one and three more
ABLATIONS = 5  # variants that `ablations.run_ablations` replays on TEST
DOMAINS = ["math", "code", "search", "translation"]
BUDGET_SECONDS, BUDGET_BYTES = 600, 8e9
DOWNLOAD = 50e6  # bytes/s from the hub, assumed
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
    """

    name: str
    flops: float
    mfu: float
    bandwidth: float
    share: float
    launch: float

    def seconds(self, counts: Counts) -> float:
        """Time for arithmetic, for memory and for launches, one after the other as if nothing overlapped.

        >>> round(Card("", 10e12, 0.5, 1e9, 0.5, 1e-3).seconds(Counts(10e12, 1e9, 1000)), 6)
        5.0
        """
        products = counts.flop / (self.flops * self.mfu)
        memory = counts.moved / (self.bandwidth * self.share)
        return products + memory + counts.launches * self.launch


CARDS = (
    Card("expected", 65e12, 0.25, 320e9, 0.7, 25e-6),
    Card("half as fast", 65e12, 0.125, 320e9, 0.35, 50e-6),
)


@dataclass(frozen=True)
class Stage:
    """A piece of the whole run.

    Attributes:
        name: What runs.
        times: How often.
        counts: Of one time.
        peak: Most bytes held meanwhile, weights included.
    """

    name: str
    times: int
    counts: Counts
    peak: int

    def seconds(self, card: Card) -> float:
        """Of all times."""
        return self.times * card.seconds(self.counts)


def stage_table(stages: list[Stage], cards: list[Card]) -> str:
    """Markdown: counts of one time, and each card's seconds for all times."""
    lines = [
        f"| stage | times | GFLOP | GB moved | launches | {' | '.join(f's, {card.name}' for card in cards)} |",
        "|" + "---|" * (5 + len(cards)),
    ]
    for stage in stages:
        counts, spent = stage.counts, [f"{stage.seconds(card):.1f}" for card in cards]
        cells = [stage.name, str(stage.times), f"{counts.flop / 1e9:,.0f}", f"{counts.moved / 1e9:,.1f}"]
        lines.append("| " + " | ".join([*cells, f"{counts.launches:,.0f}", *spent]) + " |")
    return "\n".join(lines)


def count_run(config, split: int) -> list[Stage]:
    """Every model stage of the whole run, in fp16 on fake tensors, at its full size.

    Every answer runs to its limit and every gate is open, which is the most that can happen.

    Args:
        config: The model's shape.
        split: Prompts of CAL, of TRAIN and of VALID; TEST has twice as many.
    """
    with FakeTensorMode():
        model, counter = make_model(config, torch.float16, "cpu"), OpCounter()
        counter.hold([*model.parameters(), *model.buffers()])
        with counter:
            return [*_fit_and_tune(model, split, counter), *_test(model, 2 * split, counter)]


def _fit_and_tune(model, split: int, counter: OpCounter) -> list[Stage]:
    """The prefix, the splits that are read, the sweep of settings on VALID, and VALID's two short answers."""
    work = Work(model, draw_prompts(split, model.config.vocab_size))
    stages = []

    def stage(name: str, times: int, run) -> None:
        run()
        stages.append(Stage(name, times, *counter.take()))
        print(f"counted: {name}", flush=True)

    depth, settings = model.config.num_hidden_layers, len(DIRECTIONS) * len(BETAS) * len(DOSES)
    stage("prefix", 1, work.prefix)
    stage(f"states of {split} prompts: CAL, TRAIN, VALID, VALID for tuning", 4, work.extract)
    for layer in layers_to_steer([LayerReading(layer, 0.9, 0.5, layer < 2) for layer in range(depth)]):
        stage(f"replay of {split}, pushed at layer {layer}", settings, partial(work.replay, layer))
    name = f"{TRIGGER_ROOM} tokens for {split} rows: VALID baseline, ASA"
    return [*stages, Stage(name, 2, *_decoding(work, TRIGGER_ROOM, counter))]


def _test(model, count: int, counter: OpCounter) -> list[Stage]:
    """TEST: states, answers of three runs, ablations."""
    work = Work(model, draw_prompts(count, model.config.vocab_size))
    work.prefix()
    counter.take()
    work.extract()
    stages = [Stage(f"states of {count} prompts: TEST", 1, *counter.take())]
    work.replay(model.config.num_hidden_layers // 4)
    stages.append(Stage(f"replay of {count}: ablations", ABLATIONS, *counter.take()))
    limit = LFM25.max_new_tokens
    name = f"{limit} tokens for {count} rows: TEST baseline, ASA, paper"
    stages.append(Stage(name, 3, *_decoding(work, limit, counter)))
    print("counted: TEST", flush=True)
    return stages


def _decoding(work: Work, limit: int, counter: OpCounter) -> tuple[Counts, int]:
    """`limit` tokens for every row: the first, and the one halfway for each of the others, as cost grows evenly."""
    counter.take()
    work.decode(work.batches, limit, 1)
    first, peak = counter.take()
    halfway = [_grown(batch, limit // 2) for batch in work.batches]
    costs = []
    for steps in (1, 2):
        counter.take()
        work.decode(halfway, limit, steps)
        costs.append(counter.take()[0])
    return first + (costs[1] - costs[0]) * (limit - 1), peak


def _grown(batch: Batch, tokens: int) -> Batch:
    """A batch as it is when every row has `tokens` more."""
    cache = join_caches([batch.cache], batch.own_mask.shape[1] + tokens)
    return replace(batch, cache=cache, own_mask=pad(batch.own_mask, (0, tokens), value=True))


def time_fits(config, split: int) -> float:
    """Seconds of scikit-learn's part on this machine: layer sweep, choice of the probe, readers of every layer tried.

    The states are random, with a few strong common factors as real ones have, and labels that can be read from them.
    """
    rng = np.random.default_rng(0)
    depth, width, rows = config.num_hidden_layers, config.hidden_size, 3 * split
    factors = rng.standard_normal((rows, 32))
    states = (factors @ rng.standard_normal((depth, 32, width)) + rng.standard_normal((depth, rows, width))).astype(
        np.float32
    )
    states = states.transpose(1, 0, 2)
    labels = (factors[:, 0] + 0.5 * rng.standard_normal(rows) > 0).astype(int)
    domains = [DOMAINS[row % 4] for row in range(rows)]
    fit, valid = slice(0, 2 * split), slice(2 * split, rows)

    def everything() -> None:
        sweep_layers(states[fit], labels[fit], states[valid], labels[valid], 0)
        strength, own = choose_probe(
            states[fit, -1], labels[fit], domains[fit], states[valid, -1], labels[valid], DOMAINS
        )
        for layer in range(MOST_LAYERS):
            fit_readers(states[fit, layer % depth], labels[fit], domains[fit], DOMAINS, strength, own)

    print("timing scikit-learn's fits", flush=True)
    return timed(everything)[0]


def launch_seconds(config) -> float:
    """Seconds a launch costs on this CPU, Python and the tiny arithmetic included: a narrow model of the same layers."""
    narrow = Lfm2Config(**config.to_dict() | NARROW)
    work = Work(make_model(narrow, torch.float32, "cpu"), draw_prompts(1, narrow.vocab_size))
    work.prefix()
    work.extract()
    work.decode(work.batches, 32, 32)
    took, _ = timed(work.decode, work.batches, 32, 32)
    counter = OpCounter()
    with counter:
        work.decode(work.batches, 32, 32)
    return took / counter.take()[0].launches


def estimate(config, split: int) -> str:
    """Markdown: the computed run, stage by stage, with totals and memory."""
    stages, fits, launch = count_run(config, split), time_fits(config, split), launch_seconds(config)
    weights = 2 * parameters_of(config)
    tokens = 2 * TRIGGER_ROOM * split + 3 * LFM25.max_new_tokens * 2 * split
    fixed = [
        ("download", weights / DOWNLOAD, f"{weights / 1e9:.2f} GB at {DOWNLOAD / 1e6:.0f} MB/s"),
        ("loading", weights / READING, f"{weights / 1e9:.2f} GB at {READING / 1e6:.0f} MB/s"),
        ("scikit-learn's fits", SLOWER * fits, f"{fits:.1f} s here, times {SLOWER}"),
        ("stop rule", STOP_RULE * tokens, f"{tokens:,} tokens at {STOP_RULE * 1e6:.0f} us"),
        ("all around", AROUND, "imports, missing packages, Alpaca, tokenising, figures, report"),
    ]
