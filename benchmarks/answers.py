"""Answers: what an answer costs without steering, with one push, looking ahead, and with a push at every token.

    python benchmarks/answers.py               writes benchmarks/answers.md

Under `generate` one request at a time, and in the engine all side by side. Every answer has the same number of tokens,
so that only the steering differs, and the ways take turns. What they achieve stands in the report.
"""

import contextlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import numpy as np
import torch
from bench import Bench, never, open_bench, spread, timed

from asa.engine.answering import answer_all, answer_chosen
from asa.engine.batch import Batch
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.evaluation.tables import markdown_table
from asa.study.cascade import Cascade, cascade_answers

MODELS = {"SmolLM2": "outputs", "Gemma": "outputs/gemma3-270m"}
ROUNDS, TOKENS, ALONE, TOGETHER = 3, 24, 4, 32
BLOCKS, LENGTH = (3, 6), 0.15  # of cascades: blocks, and a push's length over its state's
WAYS = ("not steered", "one push", "one push, looking ahead")


def alone(bench: Bench, prompts: list[list[int]]) -> dict[str, Callable[[], object]]:
    """Way -> what answers all prompts by `generate`, one after the other."""
    fixed = {"min_new_tokens": TOKENS, "max_new_tokens": TOKENS, "do_sample": False, "pad_token_id": 0}

    def answer(steered: Callable[[], contextlib.AbstractContextManager]) -> None:
        for ids in prompts:
            given = torch.tensor([ids])
            with steered():
                bench.model.generate(given, attention_mask=torch.ones_like(given), **fixed)

    steer, model = bench.adapter.steer, bench.model
    contexts = (contextlib.nullcontext, lambda: steer(model, look_ahead=False), lambda: steer(model, look_ahead=True))
    return {way: lambda context=context: answer(context) for way, context in zip(WAYS, contexts, strict=True)}


def together(bench: Bench, prompts: list[list[int]]) -> dict[str, Callable[[], object]]:
    """Way -> what answers all prompts in the engine, each of them pushed; the prefill is part of every way."""
    layer, engine = bench.adapter.layer, Engine(bench.model, bench.prefix)
    along = np.eye(1, bench.model.config.hidden_size, dtype=np.float32).repeat(len(prompts), axis=0)

    def batches() -> list[Batch]:
        return read_prompts(engine, prompts, bench.trigger_id, "prefill")[1]

    def pushed() -> None:
        answer_chosen(batches(), along.any(axis=1), TOKENS, never, "pushed", push=(layer, along))

    def cascaded(blocks: int) -> None:
        every = Cascade(max(0, layer - blocks + 1), np.tile(along[:, None], (1, blocks, 1)), LENGTH)
        cascade_answers(batches(), every, TOKENS, never, "cascade")

    return {"not steered": lambda: answer_all(batches(), TOKENS, never, "plain"), "one push": pushed} | {
        f"a push at every token, {blocks} blocks": lambda blocks=blocks: cascaded(blocks) for blocks in BLOCKS
    }


def measured(ways: dict[str, Callable[[], object]], count: int) -> list[list[str]]:
    """A row per way: median seconds per answer over `ROUNDS`, and how much that is over the first way."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(ROUNDS + 1):  # the first warms up
        for way, work in ways.items():
            seconds, _ = timed(work)
            taken[way] += [seconds / count] if number else []
    medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
    base = next(iter(medians.values()))
    return [[way, f"{1000 * each:.1f} ms", f"{each / base - 1:+.1%}"] for way, each in medians.items()]


def page(benches: dict[str, Bench]) -> str:
    """The text of answers.md; `benches` by the model's name."""
    heads, one, side_by_side = ["model", "way", "per answer", "over not steered"], [], []
    for name, bench in benches.items():
        test = bench.prompts["test"]
        some = {count: [test[row] for row in spread(test, count)] for count in (ALONE, TOGETHER)}
        one += [[name, *row] for row in measured(alone(bench, some[ALONE]), ALONE)]
        side_by_side += [[name, *row] for row in measured(together(bench, some[TOGETHER]), TOGETHER)]
    text = [
        "# What steering adds to an answer",
        f"`python benchmarks/answers.py` wrote this: answers of {TOKENS} tokens each, medians of {ROUNDS} rounds in "
        f"which the ways take turns, {torch.get_num_threads()} threads. Rounds differ by a few per cent, so smaller "
        "differences say nothing. A longer answer has smaller shares.",
        f"## Under `generate`, one request at a time ({ALONE} requests)",
        markdown_table(heads, one),
        "Each answer runs its whole prompt. Looking ahead costs one token per answer.",
        f"## In the engine, {TOGETHER} requests side by side",
        markdown_table(heads, side_by_side),
        "The prefill reads the unsteered next token in any case, so that looking ahead costs nothing here, and spares "
        "the answers of requests that are not pushed. Of what the paper's third version changes, shared and residual "
        "vectors and readiness are one push, too: another vector, or one more probe of the same state.",
    ]
    return "\n\n".join(text) + "\n"


def main() -> None:
    """Write the page."""
    with contextlib.redirect_stdout(sys.stderr):
        text = page({name: open_bench(ROOT / folder / "asa_assets") for name, folder in MODELS.items()})
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
