"""Linear layers: what oneDNN's bring, where the engine takes them.

    python benchmarks/linears.py      writes benchmarks/linears.md

SmolLM2 reads requests, replays settings and answers, with PyTorch's own linear layers and with oneDNN's, in turn.
"""

import contextlib
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import torch
from bench import never, open_bench, spread, timed

from asa.engine.answering import answer_all
from asa.engine.batch import Batch
from asa.engine.engine import Engine
from asa.engine.linears import one_dnn_is_faster
from asa.engine.states import read_prompts
from asa.evaluation.tables import markdown_table

ROUNDS, REQUESTS, TOKENS, LAYER, REPLAYS = 3, 60, 24, 15, 10
WORK = ("reading the requests", f"replaying {REPLAYS} settings", f"answers of {TOKENS} tokens")


def replayed(batches: list[Batch], states: torch.Tensor) -> None:
    """`REPLAYS` settings at `LAYER`."""
    for _ in range(REPLAYS):
        for batch in batches:
            batch.replay(LAYER, states[batch.rows, LAYER])


def main() -> None:
    """Time both ways and write linears.md."""
    assert one_dnn_is_faster(), "this processor is left to PyTorch's own, so there is nothing to time."
    with contextlib.redirect_stdout(sys.stderr):
        bench = open_bench(ROOT / "outputs" / "asa_assets")
    prompts = [bench.prompts["test"][row] for row in spread(bench.prompts["test"], REQUESTS)]
    taken: dict[tuple[str, bool], list[float]] = {(work, fast): [] for work in WORK for fast in (False, True)}
    said: dict[bool, list[list[int]]] = {}
    for turn in range(ROUNDS + 1):
        for fast in (False, True):
            with torch.backends.mkldnn.flags(enabled=fast):
                engine = Engine(bench.model, bench.prefix)
                reading_s, (reading, batches) = timed(read_prompts, engine, prompts, bench.trigger_id, "read")
                replaying_s, _ = timed(replayed, batches, torch.from_numpy(reading.states))
                answering_s, said[fast] = timed(answer_all, batches, TOKENS, never, "answer")
            if turn:  # the first warms up
                for work, seconds in zip(WORK, (reading_s, replaying_s, answering_s), strict=True):
                    taken[work, fast].append(seconds)
    medians = {key: statistics.median(seconds) for key, seconds in taken.items()}
    rows = []
    for work in WORK:
        plain_s, fast_s = medians[work, False], medians[work, True]
        rows.append([work, f"{plain_s:.1f} s", f"{fast_s:.1f} s", f"{plain_s / fast_s:.2f}"])
    same = sum(plain == fast for plain, fast in zip(said[False], said[True], strict=True))
    text = [
        "# Linear layers",
        f"`python benchmarks/linears.py` wrote this: {len(prompts)} requests, SmolLM2, {torch.get_num_threads()} "
        f"threads of a processor with AVX-512 that AMD made; medians of {ROUNDS} rounds in which the two take turns.",
        markdown_table(["", "PyTorch's own", "oneDNN's", "times as fast"], rows),
        f"{same} of {len(prompts)} answers are the same to the last token.",
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
