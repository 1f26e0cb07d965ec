"""Benchmarks, one command: `python benchmarks/run.py [--json]`.

Measures ours and the plain approach side by side, in one process, on the same model, requests and threads, and writes
`results.md` and `growth.png` beside this file. `--json` prints the table's rows. `--quick` only shows that everything
runs: its numbers mean nothing, and it needs another `--out`.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import torch
import transformers
from alone import attached_generate, decision, first_line, import_package, memory
from bench import QUICK, ROOT, Bench, Row, Sizes, open_bench, processor, timed
from growth import in_words as growth_in_words
from growth import measure_growth, plot_growth
from limits import in_words as limits_in_words
from limits import measure_limits
from rows import extraction, generation, sweep_setting
from whole import full_pipeline, pipeline

from asa.support.files import write_atomic

HERE = Path(__file__).parent


def measure_rows(bench: Bench, assets: str, sizes: Sizes) -> list[Row]:
    """The table, row by row; says on stderr what each one took."""
    rows: list[Row] = []

    def add(measure, *args):
        took, found = timed(measure, *args)
        row, both = found if isinstance(found, tuple) else (found, None)
        rows.append(row)
        print(f"{row.work}: measured in {took:.0f} s, ratio {row.as_json()['ratio']}, equal {row.equal}", flush=True)
        return both

    parts = [add(measure, bench, sizes) for measure in (extraction, sweep_setting, generation)]
    add(full_pipeline, bench, *parts)
    add(pipeline, bench, sizes)
    add(decision, 1, sizes)
    add(decision, 32, sizes)
    add(attached_generate, bench, sizes)
    add(memory, assets, sizes)
    add(import_package, sizes)
    add(first_line, sizes)
    return rows


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table, and a line on each."""
    lines = ["| work | ours | theirs | ratio | reach | equal |", "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = row.as_json()["ratio"]
        cells = [row.work, _seconds(row.ours_s), _seconds(row.theirs_s), "-" if ratio is None else f"{ratio:.3g} x"]
        lines.append("| " + " | ".join([*cells, row.reach, {None: "-", True: "yes", False: "NO"}[row.equal]]) + " |")
    return "\n".join([*lines, "", *(f"- {row.work}: {row.note}." for row in rows)])


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g} s" if value >= 0.1 else f"{value * 1000:.3g} ms"


def results(bench: Bench, sizes: Sizes, rows: list[Row], limits: str, growth: str) -> str:
    """The text of `results.md`."""
    size = sum(parameter.numel() for parameter in bench.model.parameters())
    note = "" if sizes is not QUICK else "**A quick run, which only shows that everything runs: not to be quoted.**\n\n"
    return f"""# Benchmarks

{note}`python benchmarks/run.py` wrote this: {bench.model.config.model_type}, {size / 1e6:.0f} M parameters, \
{bench.model.dtype}, {bench.benchmark} requests, prompts of {len(bench.prefix)} shared tokens and a few of their own; \
{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, transformers {transformers.__version__}.

Ours and theirs take turns, {sizes.rounds} rounds, medians. Theirs is the plain approach (`plain.py`): every request \
alone, from the start. Its cost adds up over requests, so each round times it on another sample, spread by prompt \
length, and scales; equality is checked on all samples. Ours is timed on all requests of its row.

{table(rows)}

## Distance to the limit

{limits}

## How cost grows

![How cost grows](growth.png)

{growth}
"""


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Measure ours against the plain approach.")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to see that it runs; give --out")
    parser.add_argument("--assets", default=str(ROOT / "outputs" / "asa_assets"), help="adapter folder")
    parser.add_argument("--out", default=str(HERE), help="folder for results.md and growth.png")
    options = parser.parse_args()
    if options.quick and Path(options.out).resolve() == HERE.resolve():
        parser.error("--quick would overwrite real results: give another --out.")
    sizes = QUICK if options.quick else Sizes()
    with contextlib.redirect_stdout(sys.stderr):
        bench = open_bench(options.assets)
        rows = measure_rows(bench, options.assets, sizes)
        limits = limits_in_words(*measure_limits(bench, 8 if options.quick else 64, 4 if options.quick else 32))
        growth = measure_growth(bench, sizes.growth)
        plot_growth(growth, Path(options.out) / "growth.png")
        text = results(bench, sizes, rows, limits, growth_in_words(growth))
        write_atomic(Path(options.out) / "results.md", lambda scratch: scratch.write_text(text, encoding="utf-8"))
    if options.json:
        print(json.dumps({"rows": [row.as_json() for row in rows]}, indent=2))
    else:
        print(table(rows))


if __name__ == "__main__":
    main()
