"""Peak memory of extraction over the loaded model's own, in a process of its own: `memory.py ASSETS REQUESTS`.

Prints JSON: `model_mb`, what the process holds with the model loaded and used once, and `over_mb`, how far extraction
goes beyond that. Linux only, as it reads and resets the peak in /proc.
"""

import json
import sys
from itertools import cycle, islice
from pathlib import Path

from bench import open_bench

from asa.engine.engine import Engine
from asa.engine.states import read_states


def megabytes(name: str) -> float:
    """A line of /proc/self/status in MB: `VmRSS` now, `VmHWM` at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Measure and print."""
    bench = open_bench(sys.argv[1])
    prompts = list(islice(cycle(bench.everything), int(sys.argv[2])))
    Engine(bench.model, bench.prefix[:2])  # touches every weight, so that all of the model is in memory
    before = megabytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    reading = read_states(Engine(bench.model, bench.prefix), prompts, bench.trigger_id, "memory")
    assert len(reading.states) == len(prompts)
    print(json.dumps({"model_mb": before, "over_mb": megabytes("VmHWM") - before}))


if __name__ == "__main__":
    main()
