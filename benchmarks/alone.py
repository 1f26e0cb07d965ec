"""The rows without the engine: one decision, the adapter's cost in `generate`, memory, and the wait at the start."""

import contextlib
import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from bench import ROOT, Bench, Row, Sizes, timed
from plain import hook_of
from truth import error

from asa.adapter import ASAAdapter

WIDTH = 2048  # hidden size of LFM2.5
DECISION_REACH = {1: 0.05, 32: 0.15}  # milliseconds


def random_adapter(domains: int = 4, seed: int = 0, weighs_probes: bool = True) -> ASAAdapter:
    """An adapter at LFM2.5's width, whose decisions on standard normal states differ."""
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(2 * domains, WIDTH, generator=rng) / WIDTH**0.5
    vectors = torch.nn.functional.normalize(torch.randn(domains, WIDTH, generator=rng), dim=1)
    names = [f"domain {number}" for number in range(domains)]
    config = {
        "layer": 0, "alpha": 1.0, "dose": 1.0, "tau": 0.6, "domains": names, "weighs_probes": weighs_probes,
        "model": {"hidden_size": WIDTH},
    }  # fmt: skip
    return ASAAdapter(config, {"weight": weight, "bias": torch.zeros(2 * domains), "vectors": vectors})


@torch.no_grad()
def decision(rows: int, sizes: Sizes) -> Row:
    """One decision and push for `rows` states, against the plain hook, which takes them one by one."""
    adapter = random_adapter()
    hook = hook_of(adapter)
    hidden = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(1))
    outputs = [row[None, None] for row in hidden]

    def plain() -> list[torch.Tensor]:
        pushed = []
        for output in outputs:
            hook.fired = False
            pushed.append(hook(None, None, output)[0, 0])
        return pushed

    delta, decisions = adapter.push(hidden)
    pushed = torch.stack(plain())
    equal = bool(error(hidden + delta, pushed.double()).max() <= 2 * torch.finfo(torch.float32).eps)  # one sum, rounded
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(max(3, sizes.rounds)):
        for side, work in (("ours", lambda: adapter.push(hidden)), ("theirs", plain)):
            seconds[side] += [timed(work)[0] for _ in range(max(3, sizes.decisions // rows))]
    gates = [decision.gate for decision in decisions]
    note = f"hidden size {WIDTH}, medians of {len(seconds['ours'])} in turn; gates of the rows: "
    note += ", ".join(f"{gates.count(gate)} of {gate:+d}" for gate in (1, 0, -1))
    ours_s, theirs_s = (statistics.median(seconds[side]) for side in ("ours", "theirs"))
    work = f"decision and push, {rows} row{'s' * (rows > 1)}, hidden {WIDTH}"
    return Row(work, ours_s, theirs_s, f"at most {DECISION_REACH[rows]} ms", equal, note)


def attached_generate(bench: Bench, sizes: Sizes) -> Row:
    """`generate` of 64 tokens with the adapter attached, against without, token by token in turn.

    Two copies of the model answer at the same time, but only one of them works at a time: after every token it waits
    for the other's. So both meet the same moods of the machine; and they change places from pair to pair, as one copy
    may lie better in memory. Compared is the sum of the tokens' median times.
    """
    ids = torch.tensor([bench.prompts["test"][0]], device=bench.model.device)
    options = {"min_new_tokens": 64, "max_new_tokens": 64, "do_sample": False, "pad_token_id": 0}
    options |= {"attention_mask": torch.ones_like(ids)}
    copies = (bench.model, copy.deepcopy(bench.model))

    def answer(model, steered: bool, turn: dict[bool, threading.Semaphore], taken: list[float]) -> None:
        def hand_over(_ids, scores):
            taken[-1] = time.perf_counter() - taken[-1]
            turn[not steered].release()
            turn[steered].acquire()
            taken.append(time.perf_counter())
            return scores

        turn[steered].acquire()
        taken.append(time.perf_counter())
        try:
            with bench.adapter.steer(model) if steered else contextlib.nullcontext():
                model.generate(ids, **options, logits_processor=[hand_over])
        finally:
            turn[not steered].release(options["max_new_tokens"])  # the other never waits again, also after an error
        taken.pop()  # what follows the last token

    def both(number: int) -> dict[bool, list[float]]:
        first, taken = bool(number // 2 % 2), {True: [], False: []}
        turn = {side: threading.Semaphore(int(side == first)) for side in taken}
        threads = [
            threading.Thread(target=answer, args=(copies[(number + side) % 2], side, turn, taken[side]))
            for side in taken
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return taken

    both(0)
    pairs = [both(number) for number in range(sizes.generates)]
    ours, theirs = (np.array([pair[side] for pair in pairs]) for side in (True, False))  # `[pairs, 64]` seconds

    def slower(part: slice) -> float:
        return float(np.median(ours[part], axis=0).sum() / np.median(theirs[part], axis=0).sum() - 1)

    halves = " and ".join(f"{slower(slice(first, None, 2)):+.2%}" for first in (0, 1))
    note = (
        f"theirs is no adapter; {sizes.generates} pairs, the tokens' medians, {slower(slice(None)):+.2%} "
        f"({halves} with the one and the other copy steered)"
    )
    work = "generate with the adapter attached, 64 new tokens"
    ours_s, theirs_s = (float(np.median(side, axis=0).sum()) for side in (ours, theirs))
    return Row(work, ours_s, theirs_s, "at most 1 % over no adapter", None, note)


def memory(assets: str, sizes: Sizes) -> Row:
    """Peak memory of extraction, measured in a process of its own."""
    command = [sys.executable, str(Path(__file__).with_name("memory.py")), assets, str(sizes.memory)]
    took, done = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True))
    found = json.loads(done.stdout.splitlines()[-1])
    work = f"peak memory of extraction over the model's own, {sizes.memory} requests: {found['over_mb']:.0f} MB"
    note = f"the process with its model: {found['model_mb']:.0f} MB; seconds: the whole process"
    return Row(work, took, None, "at most 1.5 GB at 1,600 requests", None, note)


def import_package(sizes: Sizes) -> Row:
    """A new process that imports the adapter; `import asa` alone loads nothing yet."""
    command = [sys.executable, "-c", "from asa import ASAAdapter"]
    seconds = [timed(lambda: subprocess.run(command, cwd=ROOT, check=True))[0] for _ in range(sizes.rounds)]
    note = f"a new process, median of {sizes.rounds}"
    return Row("import of asa with its ASAAdapter", statistics.median(seconds), None, "under 3 s", None, note)


def first_line(sizes: Sizes) -> Row:
    """From the start of `pipeline.py` to the first line it prints, which comes before the model; then it is ended."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-u", "pipeline.py", "--profile", "embedded", "--out", out]
        seconds, line = [], ""
        for _ in range(sizes.rounds):
            started = time.perf_counter()
            with subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            ) as process:  # fmt: skip
                line = process.stdout.readline().strip()
                seconds.append(time.perf_counter() - started)
                process.kill()
            if not line:
                raise RuntimeError("pipeline.py printed nothing: run it to see why.")
    note = f"the hub is not asked; median of {sizes.rounds}; the line: `{line}`"
    return Row("pipeline.py, start to its first line", statistics.median(seconds), None, "under 3 s", None, note)
