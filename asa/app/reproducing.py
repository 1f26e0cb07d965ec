"""Reproduction: run the pipeline again as a `results.json` says, and compare its main numbers, one by one.

The setting, the rates of every run on TEST with their intervals, and how many calls do the job; where evaluations lie
beside the file (`blind.json`, `held_out.json`), their scores, too. Where a number differs, what the file says of its
making is set beside this machine: weights, requests, prompt, options, versions, threads, the package's code.
Nothing is judged close enough: a number is the same or it is not.
"""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asa.app.options import MADE_WITH
from asa.app.scoring import evaluate
from asa.data.requests import ALPACA, HAND_WRITTEN, QUICK_LOOK
from asa.evaluation.results import Results
from asa.evaluation.tables import printed
from asa.models.loading import hub_answers
from asa.support.environment import versions
from asa.support.files import UserError, key_of, shipped

RUNS, MEASURES = ("baseline", "probe", "asa_paper", "asa"), ("precision", "recall", "f1", "fpr", "accuracy")
SETTING = ("layer", "direction", "dose", "tau", "beta")
WITH_INTERVAL = ("f1", "fpr")
JOB = {"rate": "job", "interval": "job from, to"}
EVALUATED = ("blind", "held_out")  # data/NAME.jsonl, and NAME.json beside the results
NOT_SAID = "not said"
OUT = "outputs/reproduced"


@dataclass(frozen=True)
class Compared:
    """One value of both runs: whose it is, its name, and what it was then and is now."""

    of: str
    name: str
    then: Any
    now: Any

    @property
    def same(self) -> bool:
        """To the last digit."""
        return self.then == self.now


def compare(then: Results, now: Results) -> list[Compared]:
    """The setting, and every number of the main table; one that only one of them has is None in the other."""
    setting = [Compared("setting", name, getattr(then.chosen, name), getattr(now.chosen, name)) for name in SETTING]
    jobs = []
    for run in (run for run in RUNS if run in {**then.scores.calls, **now.scores.calls}):
        both = [scores.calls.get(run, {}).get("job", {}) for scores in (then.scores, now.scores)]
        jobs += [Compared(run, says, *[job.get(name) for job in both]) for name, says in JOB.items()]
    return setting + compare_scores(then.scores.test, now.scores.test) + jobs


def compare_scores(then: dict, now: dict, of: str = "") -> list[Compared]:
    """The scores of every run, and the intervals that the main table shows; `of` stands before a run's name."""
    compared = []
    for run in (run for run in RUNS if run in {**then, **now}):
        tables = [table.get(run, {}) for table in (then, now)]
        compared += [Compared(of + run, name, *[table.get(name) for table in tables]) for name in MEASURES]
        ranges = [table.get("intervals", {}) for table in tables]
        compared += [
            Compared(of + run, f"{name} from, to", *[each.get(name) for each in ranges]) for name in WITH_INTERVAL
        ]
    return compared


def reasons(then: Results, now: Results) -> list[str]:
    """What was other when `then` was made, one phrase each."""
    if not then.run.made_with:
        return ["the file does not say what it was made with"]
    there, here = then.run.made_with, now.run.made_with
    both = [(name, there.get(name, NOT_SAID), here.get(name, NOT_SAID)) for name in {**there, **here}]
    return [f"{name} {str(was)[:16]}, here {str(now)[:16]}" for name, was, now in both if was != now]


def in_words(compared: list[Compared], why: list[str]) -> str:
    """A line for each value, and what follows."""
    lines = []
    for one in compared:
        then, now = map(_text if one.same else repr, (one.then, one.now))  # a difference is shown to the last digit
        lines.append(f"{one.of:<17} {one.name:<13} {then:>12} {now:>12}  {'same' if one.same else 'OTHER'}")
    others = sum(not one.same for one in compared)
    if not others:
        return "\n".join([*lines, f"All {len(compared)} are the same."])
    because = "; ".join(why) or "nothing that the file says of its making"
    return "\n".join([*lines, f"{others} of {len(compared)} differ. What differs: {because}."])


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value) if isinstance(value, str | int) else printed(value)


def options_of(then: Results, given: list[str], hub: bool) -> list[str]:
    """The pipeline's options for a run like `then`; `given` ones come last, and so win.

    Raises:
        UserError: The run cannot be asked for in this way, or needs a file that is not given.
    """
    if then.seed != 0:
        raise UserError(f"these results were drawn with seed {then.seed}, which only the notebook can set.")
    options, benchmark = ["--profile", then.run.profile], then.run.benchmark.name
    if benchmark.endswith(QUICK_LOOK):
        options.append("--quick")
    if not then.tuning.tool_choice:
        options.append("--no-grammar")
    options += [f"--{name}={made}" for name in MADE_WITH if (made := then.run.made_with.get(name))]
    asked = {option.partition("=")[0] for option in given}
    name = benchmark.removesuffix(QUICK_LOOK)
    if name == ALPACA and not (hub or "--alpaca" in asked or os.environ.get("ASA_ALPACA")):
        raise UserError(
            "these results are Alpaca's, and the hub does not answer: give the file, --alpaca FILE.parquet."
        )
    if name == HAND_WRITTEN:
        options += ["--requests", shipped("data/requests.jsonl")]
    elif name != ALPACA and "--requests" not in asked:
        raise UserError(f"these results are from requests named {name!r}: give their file, --requests FILE.")
    return options + given


def evaluations(beside: Path) -> dict[str, dict]:
    """Name -> what `asa evaluate --json` wrote, of those that lie beside the results.

    Raises:
        UserError: One cannot be read.
    """
    found = {}
    for path in (path for name in EVALUATED if (path := beside / f"{name}.json").exists()):
        try:
            found[path.stem] = dict(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}); run asa evaluate --json to write it again.") from error
    return found


def evaluated_again(then: dict[str, dict], assets: Path) -> list[Compared]:
    """The scores of evaluations, and those of the adapter in `assets`."""
    compared = []
    for name, scores in then.items():
        compared += compare_scores(scores, evaluate(assets, shipped(f"data/{name}.jsonl")), f"{name} ")
    return compared


def reproduce(arguments: list[str]) -> None:
    """`asa reproduce RESULTS [the pipeline's options]`; ends with status 1 where a number differs.

    Raises:
        UserError: The file cannot be read, or its run cannot be repeated.
    """
    here = key_of(versions(), torch.get_num_threads())[:8]  # another machine's stages are not taken for this one's
    parser = ArgumentParser(
        prog="asa reproduce",
        allow_abbrev=False,
        usage="asa reproduce RESULTS [options of the pipeline]",
        description="Run the pipeline again as results.json says, and compare its main numbers one by one.",
        epilog="Further options are the pipeline's.",
    )
    parser.add_argument("results", help="a results.json")
    parser.add_argument(
        "--out", default=f"{OUT}/{here}", help=f"output folder, one of this machine in {OUT} by default"
    )
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        raise UserError("name the results.json first, and the pipeline's options behind it.")
    known, given = parser.parse_known_args(arguments)
    then, beside = Results.load(known.results), evaluations(Path(known.results).parent)
    options = [*options_of(then, given, hub_answers()), "--out", known.out]
    folder = Path(known.out) / ("quick" if "--quick" in options else "")
    if folder.resolve() == Path(known.results).resolve().parent:
        raise UserError(f"{folder} holds the results that are to be made again: give another folder, --out DIR.")
    done = subprocess.run([sys.executable, shipped("pipeline.py"), *options])
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    now = Results.load(folder / "results.json")
    compared, why = compare(then, now), reasons(then, now)
    print(in_words(compared, why))
    if beside:
        print(in_words(again := evaluated_again(beside, folder / "asa_assets"), why))
        compared += again
    if not all(one.same for one in compared):
        raise SystemExit(1)
