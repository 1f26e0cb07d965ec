"""What every measurement needs: the model, the adapter, the prompts, the sizes, and two sides timed in turn.

Ours is timed on all of its requests. The plain side does every request alone, so its cost adds up: each round times it
on another sample, spread over the requests by length, and scales the seconds to all of them. Nothing is measured here.
"""

import contextlib
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the command runs from a checkout, installed or not

from asa.adapter import ASAAdapter
from asa.data.requests import Request, choose_requests
from asa.data.splits import split_requests
from asa.models.fitting import shared_prefix
from asa.models.loading import hub_answers, load_model
from asa.models.prompts import Prompter
from asa.models.saved_profiles import profile_found, profile_from_json
from asa.tools.definitions import domains_of, tools_from_json


@dataclass(frozen=True)
class Sizes:
    """How much is measured; `QUICK` only shows that everything runs.

    Attributes:
        rounds: Times that both sides take turns.
        states: Requests of extraction and of a sweep setting.
        answers: Requests of generation.
        limit: Maximum new tokens per answer.
        sampled_states: Requests a round that the plain side reads, and sweeps.
        sampled_answers: Requests a round that the plain side answers, twice.
        unit: CAL, TRAIN and VALID requests a domain and label of the pipeline that both sides really run; TEST twice.
        settings: Sweep settings of that pipeline.
        decisions: Decisions a round.
        generates: Pairs of `generate` calls, without and with the adapter.
        memory: Requests whose extraction's peak memory is measured.
        growth: Largest numbers of requests, prefix tokens, settings and rows of a batch.
    """

    rounds: int = 3
    states: int = 320
    answers: int = 96
    limit: int = 256
    sampled_states: int = 8
    sampled_answers: int = 4
    unit: int = 3
    settings: int = 18
    decisions: int = 4000
    generates: int = 16
    memory: int = 1600
    growth: tuple[int, int, int, int] = (6400, 2000, 1000, 64)


QUICK = Sizes(1, 24, 8, 24, 2, 2, 1, 2, 20, 2, 16, (400, 200, 10, 4))


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: What was done.
        ours_s: Our seconds.
        theirs_s: The plain side's seconds for the same work; None: not compared.
        reach: What was asked for.
        equal: Whether both gave the same; None: nothing to compare.
        note: How it was measured and what was compared.
    """

    work: str
    ours_s: float
    theirs_s: float | None
    reach: str
    equal: bool | None
    note: str

    def as_json(self) -> dict:
        """The row's six published fields; `ratio` is the plain side's seconds over ours."""
        ratio = None if self.theirs_s is None else self.theirs_s / self.ours_s
        return {
            "work": self.work, "ours_s": self.ours_s, "theirs_s": self.theirs_s, "ratio": ratio,
            "reach": self.reach, "equal": self.equal,
        }  # fmt: skip


@dataclass
class Bench:
    """A model with its adapter and prompts.

    Attributes:
        model: In evaluation mode.
        adapter: Fitted on it.
        trigger_id: First token of a tool call.
        ends: Token ids that end a turn: the one stop rule of both sides.
        splits: Requests by split.
        prompts: Their token ids, in the same order.
        prefix: What all prompts share.
        benchmark: Where the requests come from.
    """

    model: object
    adapter: ASAAdapter
    trigger_id: int
    ends: list[int]
    splits: dict[str, list[Request]]
    prompts: dict[str, list[list[int]]]
    prefix: list[int]
    benchmark: str

    @property
    def everything(self) -> list[list[int]]:
        """All prompts, split after split."""
        return [ids for rows in self.prompts.values() for ids in rows]

    def closed(self, answer: list[int]) -> bool:
        """Whether `answer` ends its turn."""
        return answer[-1] in self.ends


def open_bench(assets: str | Path) -> Bench:
    """The adapter in `assets` with its model; requests from Alpaca where `ASA_ALPACA` names it, else hand-written."""
    adapter = ASAAdapter.from_pretrained(assets)
    profile = profile_found(profile_from_json(adapter.config["profile"]), assets)
    tools = tools_from_json(adapter.config["tools"], f"{assets}/config.json")
    model, tokenizer, _ = load_model(profile, hub_answers())
    adapter.check_model(model)
    domains = domains_of(tools)
    alpaca = os.environ.get("ASA_ALPACA", "")
    requests, benchmark, _ = choose_requests("", alpaca, False, str(ROOT / "data"), domains)
    splits = split_requests(requests, 0)
    prompter = Prompter(tokenizer, profile, tools)
    prompts = {name: [prompter.ids(request.text) for request in rows] for name, rows in splits.items()}
    ends = model.generation_config.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])})
    prefix = shared_prefix([ids for rows in prompts.values() for ids in rows])
    return Bench(model, adapter, prompter.trigger_id, ends, splits, prompts, prefix, benchmark)


def processor() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError, StopIteration):
        info = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name"))
    return platform.processor() or platform.machine()


def spread(prompts: list[list[int]], count: int) -> list[int]:
    """Places of `count` prompts (or all, where there are fewer), evenly spread by length."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    return [order[int(place)] for place in np.linspace(0, len(order) - 1, min(count, len(order)))]


def never(_: list[int]) -> bool:
    """Says of answers whether they are finished, where each is to have as many tokens as it may."""
    return False


def timed(work: Callable, *args) -> tuple[float, object]:
    """Seconds that `work(*args)` took, and what it returned."""
    started = time.perf_counter()
    result = work(*args)
    return time.perf_counter() - started, result


@dataclass
class Compared:
    """Two sides, timed in turn.

    Attributes:
        ours_s: Median seconds on all N requests.
        theirs_s: Median seconds on samples, scaled to all N.
        ours: `[N]` results.
        theirs: Row -> result, all samples together.
    """

    ours_s: float
    theirs_s: float
    ours: list
    theirs: dict[int, object]


def compare(
    prompts: list[list[int]],
    rounds: int,
    sample: int,
    ours: Callable[[], list],
    theirs: Callable[[int], object],
    weigh: Callable[[list], np.ndarray] = lambda results: np.ones(len(results)),
) -> Compared:
    """Time both sides in turn.

    Args:
        prompts: `[N]`.
        rounds: How often both are timed; every round has a sample of its own.
        sample: Rows a round of the plain side.
        ours: Returns `[N]` results.
        theirs: Row -> that row's result.
        weigh: Our results -> how much of the plain side's work each row is `[N]`; its seconds are scaled by that.
    """
    rows = spread(prompts, rounds * sample)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    found: dict[int, object] = {}
    for number in range(rounds):
        took, results = timed(ours)
        seconds["ours"].append(took)
        picked = rows[number::rounds]
        took, answers = timed(lambda picked=picked: [theirs(row) for row in picked])
        weights = weigh(results)
        seconds["theirs"].append(took * float(weights.sum() / weights[picked].sum()))
        found |= dict(zip(picked, answers, strict=True))
    return Compared(statistics.median(seconds["ours"]), statistics.median(seconds["theirs"]), results, found)
