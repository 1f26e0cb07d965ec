"""Another tool: what adding a fifth to the committed adapter takes, and what becomes of the four others' decisions.

    python benchmarks/more_tools.py          writes benchmarks/more_tools.md

The four tools' decisions are looked at on `data/held_out.jsonl`, which no adapter was fitted on; the new tool's by two
folds of its own requests. Calls are the model's next token after the push. Nothing is chosen here.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

from asa import Assistant, load
from asa.app.adding import with_more_tools
from asa.data.requests import Request, load_requests
from asa.data.scores import confusion
from asa.evaluation.tables import markdown_table
from asa.tools.definitions import domains_of, load_tools

FOLDS = 2


def called(assistant: Assistant, requests: list[Request]) -> tuple[list[bool], list[tuple[str, bool]]]:
    """Whether the steered model calls, and the decisions: (domain, whether a tool is needed)."""
    answers = assistant([request.text for request in requests], grammar=False, max_new_tokens=1)
    opening = assistant.prompter.tokenizer.decode([assistant.prompter.trigger_id]).strip()
    decisions = [(answer.decision.domain, answer.decision.p_tool >= 0.5) for answer in answers]
    return [answer.text == opening for answer in answers], decisions


def scores(assistant: Assistant, requests: list[Request]) -> tuple[list, list[tuple[str, bool]]]:
    """[F1, FPR] of the calls, and the decisions."""
    calls, decisions = called(assistant, requests)
    found = confusion(calls, [request.label for request in requests])
    return [found["f1"], found["fpr"]], decisions


def main() -> None:
    """Write the page."""
    base = load(ROOT / "outputs" / "asa_assets")
    known = load_requests(ROOT / "data" / "requests.jsonl", list(base.adapter.domains))
    held_out = load_requests(ROOT / "data" / "held_out.jsonl", list(base.adapter.domains))
    more = load_tools(ROOT / "docs" / "own_tools" / "tools.json")
    asked = load_requests(ROOT / "docs" / "own_tools" / "requests.csv", domains_of(more))

    def compared(decisions: list) -> str:
        return f"{sum(a == b for a, b in zip(decisions, before, strict=True))} of {len(before)}"

    rates, _ = scores(base, held_out)
    rows = [["the committed adapter", *rates, "", "", "", ""]]
    again = with_more_tools(base, {}, [], known)
    rates, before = scores(again, held_out)
    rows.append(["the same four tools, fitted on the known requests", *rates, "", "", "", ""])
    for name, tool in more.items():
        own = [request for request in asked if request.domain == tool.domain]
        begun = time.perf_counter()
        five = with_more_tools(base, {name: tool}, own, known)
        seconds = time.perf_counter() - begun
        rates, after = scores(five, held_out)
        calls: list[bool] = []
        for fold in range(FOLDS):
            test = own[fold::FOLDS]
            fit = [request for request in own if request not in test]
            calls += called(with_more_tools(base, {name: tool}, fit, known), test)[0]
        order = [request for fold in range(FOLDS) for request in own[fold::FOLDS]]
        found = confusion(calls, [request.label for request in order])
        rows.append([f"and {name}", *rates, compared(after), found["f1"], found["fpr"], f"{seconds:.0f} s"])
    heads = ["adapter", "F1", "FPR", "decisions as without it", f"the new tool's F1, {FOLDS} folds", "its FPR", "time"]
    text = (
        "# Another tool\n\n`python benchmarks/more_tools.py` wrote this: SmolLM2 on 2 cores, a fifth tool by 16 + 16 "
        f"labelled requests beside {len(known)} known ones. F1 and FPR on {len(held_out)} held-out requests of the "
        "four tools, by the next token after the push; a decision is the domain and whether a tool is needed.\n\n"
    )
    Path(__file__).with_suffix(".md").write_text(text + markdown_table(heads, rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
