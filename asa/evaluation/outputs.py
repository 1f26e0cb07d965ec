"""Outputs: what a run says of TEST, and what it leaves in its folder.

What the disk refuses is named at the end of the run (see `Writer`).
"""

from pathlib import Path

import numpy as np

from asa.adapter import ASAAdapter
from asa.data.splits import Split
from asa.evaluation.answered import Answered
from asa.evaluation.errors import load_notes, write_errors
from asa.evaluation.figures import plot_baseline_vs_asa, plot_calls
from asa.evaluation.report import write_report
from asa.evaluation.results import Results, Scores
from asa.evaluation.tables import calls_in_words, rate_lines
from asa.evaluation.targets import targets_in_words
from asa.method.original_files import write_quickstart_files
from asa.method.recipe import Recipe
from asa.method.tuning import Setting
from asa.models.profiles import PROFILES
from asa.support.files import Writer, shipped, write_json

SHOWN = ("baseline", "asa_paper", "asa", "probe")
TESTED = ("precision", "recall", "f1", "fpr")  # what an adapter's config says of TEST


def scores_in_words(scores: Scores) -> str:
    """TEST's rates, one line per run, and what it says of a wanted share of false calls and of the calls."""
    rates = rate_lines({run: scores.test[run] for run in SHOWN}, (*TESTED, "accuracy"))
    return "\n".join([rates, targets_in_words(scores.target_fpr), calls_in_words(scores.calls)])


def write_adapter(
    adapter: ASAAdapter, results: Results, recipe: Recipe, chosen: Setting, folder: str, writer: Writer
) -> None:
    """Write the adapter with what TEST says of it, and beside it the original project's four files."""
    scores = results.scores.test
    adapter.config["test"] = {run: {name: scores[run][name] for name in TESTED} for run in ("baseline", "asa")}
    parts = (recipe.readers(chosen.layer), recipe.vectors(chosen))
    writer.write(f"{folder}/adapter.safetensors and config.json", lambda path: adapter.save(Path(path).parent))
    writer.write(
        f"{folder}/steering_vectors.npz, router.pkl, probes.pkl and scaler.pkl",
        lambda path: write_quickstart_files(Path(path).parent, *parts),
    )


def write_results(
    results: Results,
    sections: list[str],
    test: Split,
    answered: Answered,
    called: dict[str, np.ndarray],
    mark: str,
    folder: str,
    writer: Writer,
) -> None:
    """Write results.json, report.md, errors.md, and the figures of TEST.

    Args:
        results: Finished.
        sections: The study's, for the report.
        test: TEST.
        answered: Its answers.
        called: Of `called_by`.
        mark: Stands above the figures, small.
        folder: Where they are written.
        writer: Writes them.
    """
    run, scores = results.run, results.scores
    writer.write(f"{folder}/results.json", lambda path: write_json(path, results.to_json()))
    writer.write(f"{folder}/report.md", lambda path: write_report(results, path, sections))
    notes = load_notes(shipped("data/error_notes.csv"))
    wrong = (called["baseline"], called["asa"], answered.p_own, answered.decisions, notes)
    writer.write(f"{folder}/errors.md", write_errors, test.requests, *wrong, mark)
    name = PROFILES[run.profile].model_id.split("/")[-1] if run.profile in PROFILES else run.profile
    title = f"{name}, {run.benchmark.name}: {run.benchmark.n_test} TEST requests, 95 % intervals"
    writer.write(f"{folder}/baseline_vs_asa.png", plot_baseline_vs_asa, scores.test, title)
    calls = (results.proof or {}).get("calls") or scores.calls  # with the study's rungs, where there are some
    writer.write(f"{folder}/calls.png", plot_calls, calls, mark)
