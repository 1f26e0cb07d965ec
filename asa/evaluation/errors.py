"""Errors: every TEST request that the steered model decides wrongly, and which part went wrong.

A request is named by its source, never by its text. What a reader of the texts noted, above all where the label itself
is in doubt, comes from a file of notes; the labels stay as they are.
"""

import csv
from pathlib import Path

from asa.adapter import Decision
from asa.data.requests import Request
from asa.evaluation.tables import markdown_table
from asa.support.files import write_atomic

SURE = 0.9  # confidence from which the probes count as sure


def diagnosis(label: int, decision: Decision, p_own: float, domain: str) -> str:
    """Which part went wrong, one line.

    Args:
        label: 1 where the request needs its tool.
        decision: Of the controller.
        p_own: What the probe of the request's own domain says.
        domain: The request's own.

    >>> diagnosis(1, Decision("math", 0.97, 1, 20, 0.5, 0.99), 0.97, "math")
    'the gate was right, the model did not follow the push'
    """
    if decision.gate == 0:
        return f"the gate left it to the model (p {decision.p_tool:.2f})"
    if (decision.gate == 1) == bool(label):
        return "the gate was right, the model did not follow the push"
    if (p_own >= 0.5) == bool(label):
        taken = f"taken for {decision.domain}, " if decision.domain != domain else ""
        return f"{taken}its own probe is right ({p_own:.2f}), all together are wrong (p {decision.p_tool:.2f})"
    sure = "sure and wrong" if max(decision.p_tool, 1 - decision.p_tool) >= SURE else "unsure and wrong"
    return f"the probes were {sure} (p {decision.p_tool:.2f})"


def load_notes(path: str | Path) -> dict[str, tuple[bool, str]]:
    """Source -> whether its label is in doubt, and the note; empty where there is no such file."""
    if not Path(path).exists():
        return {}
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        return {line["source"]: (line["doubt"] == "1", line["note"]) for line in csv.DictReader(file)}


def write_errors(
    requests: list[Request],
    baseline: list[bool],
    steered: list[bool],
    p_own: list[float],
    decisions: list[Decision],
    notes: dict[str, tuple[bool, str]],
    mark: str,
    path: str | Path,
) -> str:
    """Write all errors as a Markdown table and return the text.

    Args:
        requests: `[N]`, TEST.
        baseline: `[N]`, whether the unsteered model called.
        steered: `[N]`, the same with ASA.
        p_own: `[N]`, what the probe of the request's own domain says.
        decisions: `[N]`.
        notes: Of `load_notes`.
        mark: What the reader should know of the run, or "".
        path: Where to.
    """
    rows = []
    for request, before, called, own, decision in zip(requests, baseline, steered, p_own, decisions, strict=True):
        if called == bool(request.label):
            continue
        doubt, note = notes.get(request.source, (False, ""))
        kind = "missed" if request.label else "false call"
        was = "wrong too" if before == called else "right"
        what = diagnosis(request.label, decision, own, request.domain)
        rows.append([request.domain, kind, request.source, was, what, note, "doubted" if doubt else ""])
    rows.sort(key=lambda row: row[:2])
    missed, doubted = sum(row[1] == "missed" for row in rows), sum(bool(row[-1]) for row in rows)
    text = (
        "# Errors\n\n"
        + (f"({mark})\n\n" if mark else "")
        + f"Of {len(requests)} TEST requests the steered model decides {len(rows)} wrongly: {missed} calls missed, "
        f"{len(rows) - missed} false. In {doubted} of them we doubt the label; all count as errors. Requests are named "
        "by their source (Alpaca's text is not in this repository). The probes are sure from a confidence p or 1 - p "
        f"of {SURE} on.\n\n"
        + markdown_table(["domain", "error", "request", "baseline", "what went wrong", "note", "label"], rows)
        + "\n"
    )
    write_atomic(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))
    return text
