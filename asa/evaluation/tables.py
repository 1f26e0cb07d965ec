"""Tables: rows of numbers as Markdown or plain text, and how a number looks in them."""

from asa.evaluation.calls import STEPS
from asa.evaluation.metrics import why_missing
from asa.evaluation.results import Scores


def printed(value: float | None, form: str = ".3f") -> str:
    """A number as text, with three decimals or as `form` says; None, which is no number, as a dash."""
    return "-" if value is None else format(value, form)


def markdown_table(heads: list[str], rows: list[list]) -> str:
    """A Markdown table; floats with three decimals, None as a dash.

    >>> print(markdown_table(["run", "F1"], [["baseline", 0.5], ["ASA", None]]))
    | run | F1 |
    |---|---|
    | baseline | 0.500 |
    | ASA | - |
    """

    def cell(value: object) -> str:
        return printed(value) if value is None or isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def with_interval(scores: dict, name: str) -> str:
    """A rate and its 95 % interval, e.g. `0.944 (0.925-0.961)`, from `trigger_metrics`.

    `0.000 (-)` without an interval, a dash without a rate.
    """
    return _with_bounds(scores[name], scores["intervals"][name])


def rate_with_interval(rate: dict) -> str:
    """The same of one rate from `metrics.rate_of`; a dash where nothing was counted."""
    return "-" if rate["total"] == 0 else _with_bounds(rate["rate"], rate["interval"])


def _with_bounds(rate: float | None, interval: list[float] | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.3f} ({'-'.join(map(printed, interval)) if interval else '-'})"


def mean_and_deviation(of: dict, form: str = ".3f") -> str:
    """Mean and standard deviation from `metrics.mean_and_std`, e.g. `0.944 ± 0.012`.

    Where measurements are missing, `0.944 ± 0.012 (4 of 5 have one)`; a dash where all are.
    """
    if of["mean"] is None:
        return "-"
    counted = f" ({of['counted']} of {of['total']} have one)" if "counted" in of else ""
    return f"{printed(of['mean'], form)} ± {printed(of['std'])}{counted}"


def with_reasons(table: str, runs: dict[str, dict]) -> str:
    """A table, and below it why any of the rates of its `runs` (`scores.confusion`) is missing."""
    return "\n\n".join(filter(None, [table, " ".join(why_missing(runs))]))


def rate_lines(runs: dict[str, dict], measures: tuple[str, ...]) -> str:
    """Runs' `measures` from `scores.confusion` as plain text, one line per run, and why any is missing."""
    lines = [f"{run:10s} " + "  ".join(f"{m} {printed(of[m])}" for m in measures) for run, of in runs.items()]
    return "\n".join(lines + why_missing(runs))


def gap_in_words(scores: Scores) -> str:
    """How much of the gap between baseline and probe is closed, as a sentence."""
    closed, papers = (printed(share, ".2f") for share in (scores.gap_closed, scores.gap_closed_paper))
    if scores.gap_closed is None:
        return "The probe is no better than the baseline, so there is no gap to close."
    return f"Of the gap between baseline and probe ASA closes {closed}, with the paper's direction {papers}."


def calls_table(calls: dict[str, dict], first: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of `calls.call_steps` by run; the head of the runs is `first`."""
    rows = [[run, *[rate_with_interval(of[step]) for step in STEPS]] for run, of in calls.items()]
    return [first, *[step.replace("_", " ") for step in STEPS]], rows


def calls_and_jobs(calls: dict[str, dict]) -> list[str]:
    """The steps by run, and the job by run and domain; the latter not where files of earlier runs have none."""
    jobs = {run: of.get("job_by_domain", {}) for run, of in calls.items()}
    domains = sorted({domain for of in jobs.values() for domain in of})
    rows = [[run, *[rate_with_interval(of[domain]) for domain in domains]] for run, of in jobs.items()]
    by_domain = [markdown_table(["the job, by domain", *domains], rows)] if domains else []
    return [markdown_table(*calls_table(calls, "run")), *by_domain]


def calls_in_words(calls: dict) -> str:
    """How often ASA's answers call where a tool is needed, and how often the call does the job, as a sentence."""
    called, job = calls["asa"]["called"], calls["asa"]["job"]
    if not job["total"]:
        return f"Where a tool is needed, {printed(called['rate'], '.2f')} of ASA's answers call one."
    return (
        f"Where a tool is needed, {printed(called['rate'], '.2f')} of ASA's answers call one; of the {job['total']} "
        f"that can be judged, {printed(job['rate'], '.2f')} do the job."
    )
