"""A busy machine: what one neighbour costs, with threads that spin while they wait, that sleep, and that spin
shortly and then sleep.

    python benchmarks/busy.py        writes busy.md, but for the section on other machines

Reads 80 requests of `data/held_out.jsonl` with SmolLM2, replays nine settings and answers all, in a process of its own
each time. The neighbour is a process that counts.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import SPINS, WAITING

REQUESTS, NEW_TOKENS, LAYERS = 80, 24, (15, 20, 25)
SETTINGS = {
    "threads spin (the default of torch's OpenMP)": {},
    "threads sleep": {"OMP_WAIT_POLICY": "PASSIVE"},
    f"threads spin {SPINS} rounds, then sleep (ours)": WAITING,
}


def work() -> None:
    """The work itself; prints its seconds."""
    import torch

    from asa.data.requests import load_requests
    from asa.engine.answering import answer_all
    from asa.engine.engine import Engine
    from asa.engine.states import read_prompts
    from asa.models.answers import AnswerRules
    from asa.models.fitting import shared_prefix
    from asa.models.loading import load_model
    from asa.models.profiles import EMBEDDED
    from asa.models.prompts import Prompter
    from asa.tools import load_tools

    model, tokenizer, _ = load_model(EMBEDDED, hub=False)
    prompter = Prompter(tokenizer, EMBEDDED, load_tools(ROOT / "data" / "tools.json"))
    rules = AnswerRules(prompter, model)
    prompts = [prompter.ids(request.text) for request in load_requests(ROOT / "data" / "held_out.jsonl")[:REQUESTS]]
    engine = Engine(model, shared_prefix(prompts))
    started = time.perf_counter()
    reading, batches = read_prompts(engine, prompts, rules.trigger_id, "read")
    for layer in LAYERS:
        for _ in range(3):
            batches[0].replay(layer, torch.from_numpy(reading.states[batches[0].rows, layer]))
    answer_all(batches, NEW_TOKENS, rules.ended, "answer")
    print(time.perf_counter() - started)


def timed(setting: dict[str, str]) -> float:
    """Seconds of the work in a new process; the median of three."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    command = [sys.executable, "-W", "ignore", __file__, "work"]
    runs = [subprocess.run(command, env=clean | setting, capture_output=True, text=True, check=True) for _ in range(3)]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def main() -> None:
    """Time all settings alone and beside a neighbour, and write busy.md."""
    rows = []
    for name, setting in SETTINGS.items():
        alone = timed(setting)
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            beside = timed(setting)
        finally:
            neighbour.kill()
        rows.append(f"| {name} | {alone:.1f} s | {beside:.1f} s | {beside / alone:.2f} |")
    text = [
        "# A busy machine",
        f"`python benchmarks/busy.py` wrote this: {REQUESTS} requests read, {3 * len(LAYERS)} settings replayed, "
        f"answers of {NEW_TOKENS} tokens, SmolLM2 on {os.cpu_count()} cores; medians of three.",
        "\n".join(["| | alone | beside one busy process | ratio |", "|---|---|---|---|", *rows]),
    ]
    page = ROOT / "benchmarks" / "busy.md"
    _, heading, notes = page.read_text("utf-8").partition("\n## ")  # by hand, and kept
    page.write_text("\n\n".join(text) + "\n" + heading + notes, encoding="utf-8")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
