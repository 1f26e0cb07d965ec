"""Comparisons: the same requests answered without and with the adapter, side by side, marked right or wrong.

As plain text for a terminal and as an escaped HTML table for a notebook (a trigger such as `<tool_call>` would
vanish as a tag).
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from asa.adapter import Decision
from asa.data.requests import Request
from asa.data.splits import Split
from asa.support.environment import notebook_shell
from asa.tools.parser import spoken

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # characters that a terminal obeys


@dataclass(frozen=True)
class Comparison:
    """One request, answered twice.

    Attributes:
        request: The text.
        label: 1 needs a tool, 0 does not, None unknown.
        baseline: Unsteered answer.
        steered: Steered answer.
        decision: What the adapter decided.
    """

    request: str
    label: int | None
    baseline: str
    steered: str
    decision: Decision


def comparisons_text(rows: list[Comparison], trigger: str) -> str:
    """Rows as indented text."""
    blocks = []
    for row in rows:
        kind = {1: "[TOOL] ", 0: "[NO TOOL] ", None: ""}[row.label]
        decision = row.decision
        blocks.append(
            f"{kind}{_one_line(row.request, 150)}\n"
            f"  baseline  {_said(row.baseline, trigger, row.label)}: {_one_line(row.baseline, 150)}\n"
            f"  ASA       {_said(row.steered, trigger, row.label)}: {_one_line(row.steered, 150)}\n"
            f"            {decision.domain}, p(tool) {decision.p_tool:.3f}, gate {decision.gate:+d}"
        )
    return "\n".join(blocks)


def comparisons_html(rows: list[Comparison], trigger: str) -> str:
    """Rows as an HTML table, everything escaped."""
    heads = "".join(f"<th>{head}</th>" for head in ("request", "needs", "baseline", "ASA", "domain", "p(tool)", "gate"))
    lines = []
    for row in rows:
        needs = {1: "tool", 0: "words", None: ""}[row.label]
        answers = [f"<b>{_said(a, trigger, row.label)}</b><br>{html.escape(a)}" for a in (row.baseline, row.steered)]
        decision = row.decision
        cells = [html.escape(row.request), needs, *answers, html.escape(decision.domain)]
        cells += [f"{decision.p_tool:.3f}", f"{decision.gate:+d}"]
        lines.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    return f"<table><tr>{heads}</tr>{''.join(lines)}</table>"


def show_comparisons(rows: list[Comparison], trigger: str) -> None:
    """A table in a notebook, text elsewhere."""
    if notebook_shell() is None:
        print(comparisons_text(rows, trigger))
    else:
        from IPython.display import HTML, display

        display(HTML(comparisons_html(rows, trigger)))


def telling_rows(test: Split, before: np.ndarray, after: np.ndarray, count: int) -> list[int]:
    """The rows worth showing: one per domain that steering put right, one that it spoiled, then what else changed.

    Args:
        test: N requests.
        before: `[N]` bool, whether the unsteered model called.
        after: `[N]` bool, the same with the adapter.
        count: How many rows.
    """
    needed, domains = test.labels == 1, np.array(test.domains)
    mended = np.flatnonzero((before != needed) & (after == needed)).tolist()
    spoiled = np.flatnonzero((before == needed) & (after != needed)).tolist()
    each = [next((row for row in mended if domains[row] == domain), None) for domain in dict.fromkeys(test.domains)]
    order = [row for row in each if row is not None] + spoiled[:1] + mended + list(range(len(test)))
    return list(dict.fromkeys(order))[:count]


def telling_comparisons(
    test: Split,
    called: dict[str, np.ndarray],
    answers: dict[str, list[list[int]]],
    decisions: list[Decision],
    text_of: Callable[[list[int]], str],
    count: int,
) -> list[Comparison]:
    """The `count` rows worth showing (`telling_rows`); `called` and `answers` by run, `text_of` reads an answer."""
    shown = []
    for row in telling_rows(test, called["baseline"], called["asa"], count):
        request, (plain, steered) = test.requests[row], (text_of(answers[run][row]) for run in ("baseline", "asa"))
        shown.append(Comparison(request.text, request.label, plain, steered, decisions[row]))
    return shown


def show_samples(requests: list[Request], count: int = 2) -> None:
    """Print some requests of each label."""
    for label, title in ((1, "needs a tool"), (0, "words are enough")):
        for request in [request for request in requests if request.label == label][:count]:
            print(f"{title} ({request.domain or 'no domain'}): {_one_line(request.text, 100)}")


def _said(answer: str, trigger: str, label: int | None) -> str:
    """What an answer does, and whether that is right where the label is known."""
    calls = trigger in spoken(answer)
    verdict = "" if label is None else " ✓" if calls == bool(label) else " ✗"
    return ("calls a tool" if calls else "answers in words") + verdict


def _one_line(text: str, most: int) -> str:
    flat = CONTROL.sub(lambda found: ascii(found[0])[1:-1], " ".join(text.split()))
    return flat if len(flat) <= most else flat[: most - 1] + "…"
