"""README tables: what stands between `<!-- table: NAME -->` and `<!-- /table -->`, written from the committed results.

`python -m asa.evaluation.readme`, from the repository's root, rewrites the tables of both READMEs and of
`docs/findings.md`; with `--check` it changes nothing and fails where a table is out of step. The prose around them
gives no numbers of a run, so nothing else has to be kept in step.
"""

import json
import re
import statistics
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from asa.evaluation.ablations import whole
from asa.evaluation.results import Results
from asa.evaluation.tables import (
    calls_table,
    markdown_table,
    mean_and_deviation,
    printed,
    rate_with_interval,
    with_interval,
)
from asa.method.directions import ACTION, DIRECTIONS, NECESSITY

MODELS = {"SmolLM2-135M": "outputs", "Gemma 3 270M": "outputs/gemma3-270m"}
KOREAN = {
    "model": "모델", "run": "실행", "baseline": "기준 모델", "F1 (95 % interval)": "F1 (95 % 구간)",
    "FPR (95 % interval)": "FPR (95 % 구간)", "F1, everyday requests": "F1, 일상적인 요청",
    "the call does the job": "호출이 요청을 해결한 비율",
    "arguments fit": "스키마에 맞는 인자", "kept": "유지",
    "call token forced or forbidden, same gate": "호출 토큰 강제·금지, 같은 게이트",
    "Probe&Prefill, same gate": "Probe&Prefill, 같은 게이트", "LoRA, rank 16": "LoRA, 랭크 16",
    "ASA, the paper's direction": "ASA, 논문의 방향",
    "**ASA**, action direction": "**ASA**, action 방향",
}  # fmt: skip
FILES = {"README.md": {}, "README_KR.md": KOREAN, "docs/findings.md": {}}  # and the words they use for ours
FEWEST = 30  # a rate over fewer answers is not shown
RIVALS = [  # label, and the rungs of the ladder whose mean its row shows; a direction is its whole method
    ("call token forced or forbidden, same gate", "trigger forced or forbidden"),
    ("Probe&Prefill, same gate", "Probe&Prefill"),
    ("LoRA, rank 16", "LoRA, rank 16"),
    ("ASA, the paper's direction", NECESSITY),
    ("**ASA**, action direction", ACTION),
]
LADDER = [
    ("baseline, 8 examples in the prompt", "prompt with 8 examples"),
    ("4 examples, one per tool", "prompt with 4 examples"),
    ("2 examples", "prompt with 2 examples"),
    *RIVALS,
    ("paper's direction, one vector per domain (beta 0)", "necessity: domain only"),
    ("action direction, one vector per domain (beta 0)", "action: domain only"),
    ("action, without looking ahead", "action: full"),
    ("action, mismatched domains", "action: mismatched domains"),
    ("action, the likeliest domain's probe alone", "action: routed probe"),
    ("action, one probe for all domains", "action: one probe"),
    ("action, a perfect router", "action: oracle router"),
    ("action, no gate", "action: no gate"),
    ("random directions, mean of 3", *[f"action: random direction {number}" for number in (1, 2, 3)]),
]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def committed_results() -> dict[str, Results]:
    """Model -> its results."""
    return {model: Results.load(Path(folder, "results.json")) for model, folder in MODELS.items()}


def committed_scores(requests: str) -> dict[str, dict]:
    """Model -> run -> scores on the requests of an author who knew none of the others: `held_out` or `blind`."""
    return {model: json.loads(Path(folder, f"{requests}.json").read_text("utf-8")) for model, folder in MODELS.items()}


def result_table() -> tuple[list[str], list[list[str]]]:
    """Heads and rows: baseline and ASA of both models on TEST, and on the blind requests."""
    results, blind = committed_results(), committed_scores("blind")
    rows = []
    for model in MODELS:
        for run, label in (("baseline", "baseline"), ("asa", "**ASA**")):
            test = results[model].scores.test[run]
            rates = (with_interval(test, "f1"), with_interval(test, "fpr"), with_interval(blind[model][run], "f1"))
            calls = results[model].scores.calls.get(run)  # files of earlier runs have none
            rows.append([model, label, *rates, rate_with_interval(calls["job"]) if calls else "-"])
    heads = ["F1 (95 % interval)", "FPR (95 % interval)", "F1, everyday requests", "the call does the job"]
    return ["model", "run", *heads], rows


def ladder_table(rungs: Sequence[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: some rungs of both models' ladders; a dash where a run has no such rung or too few answers."""
    ladders = {model: proof["ladder"] for model, proof in _proofs().items()}
    heads = [head for model in ladders for head in (f"{model}: F1", "FPR", "arguments fit", "kept")]
    rows = [[label, *[cell for of in ladders.values() for cell in _rates(of, names)]] for label, *names in rungs]
    columns = [column for column in zip(["", *heads], *rows, strict=True) if set(column[1:]) != {"-"}]
    heads, *rows = map(list, zip(*columns, strict=True))
    return heads, rows


def author_table(requests: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: both adapters on the requests of `held_out` or `blind`."""
    rates = ("precision", "recall", "f1", "fpr")
    rows = [
        [model, label, *[with_interval(scores[run], rate) for rate in rates]]
        for model, scores in committed_scores(requests).items()
        for run, label in (("baseline", "baseline"), ("probe", "probe alone"), ("asa", "**ASA**"))
    ]
    return ["model", "run", "precision", "recall", "F1", "FPR"], rows


def targets_table() -> tuple[list[str], list[list[str]]]:
    """Heads and rows: the gate set by a wanted share of false calls, on TEST and on the blind requests."""
    results, blind = committed_results(), committed_scores("blind")
    rows = []
    for model in MODELS:
        for test, other in zip(results[model].scores.target_fpr, blind[model]["target_fpr"], strict=True):
            rates = [rate_with_interval(of[rate]) for of in (test, other) for rate in ("fpr", "recall")]
            rows.append([model, f"{test['wanted']:.0%}", printed(test["threshold"]), *rates])
    return ["model", "wanted", "p(tool)", "TEST: FPR", "recall", "everyday: FPR", "recall"], rows


def splits_table() -> tuple[list[str], list[list[str]]]:
    """Heads and rows: both models on other splits, mean and standard deviation, next token after the push."""
    rows = []
    for model, proof in _proofs().items():
        for run, of in ((proof.get("robustness") or {}).get("splits") or {"summary": {}})["summary"].items():
            columns = [mean_and_deviation(of[m]) if m in of else "-" for m in ("gap_closed", "f1", "fpr")]
            rows.append([model, run, *columns])
    return ["model", "run", "gap closed", "F1", "FPR"], rows


def examples_table() -> tuple[list[str], list[list[str]]]:
    """Heads and rows: both models under prompts with more and fewer examples, without and with steering."""
    rows = []
    for model, proof in _proofs().items():
        for of in proof.get("shown_examples") or []:
            rates = [printed(of[run][m]) for run in ("baseline", *DIRECTIONS) for m in ("f1", "fpr")]
            rows.append([model, str(of["examples"]), *rates])
    heads = [head for run in ("baseline", *DIRECTIONS) for head in (f"{run}: F1", "FPR")]
    return ["model", "examples", *heads], rows


def _proofs() -> dict[str, dict]:
    return {model: results.proof or {} for model, results in committed_results().items()}


def rungs_table() -> tuple[list[str], list[list[str]]]:
    """Heads and rows: what each part of writing the calls adds, for the models whose study asked."""
    tables = {model: calls_table(proof.get("calls") or {}, "calls") for model, proof in _proofs().items()}
    (heads, _), *_ = tables.values()
    return ["model", *heads], [[model, *row] for model, (_, rows) in tables.items() for row in rows]


def _rates(ladder: dict, names: list[str]) -> list[str]:
    names = [whole(ladder, name) if name in DIRECTIONS else name for name in names]
    found = [ladder[name] for name in names if name in ladder]
    columns = [[rung["scores"][rate] for rung in found] for rate in ("f1", "fpr")]
    for part, name in (("validity", "arguments"), ("damage", "words_kept")):
        rates = [rung[part][name] for rung in found]
        columns.append([rate["rate"] for rate in rates if min(of["total"] for of in rates) >= FEWEST])
    return [printed(statistics.mean(values) if values else None) for values in columns]


TABLES = {
    "result": result_table,
    "rivals": lambda: ladder_table(RIVALS),
    "ladder": lambda: ladder_table(LADDER),
    "held-out": lambda: author_table("held_out"),
    "blind": lambda: author_table("blind"),
    "targets": targets_table,
    "splits": splits_table,
    "examples": examples_table,
    "calls": rungs_table,
}


def with_tables(text: str, words: dict[str, str]) -> str:
    """`text` with its tables written anew, and their labels in `words` where it has them."""

    def fresh(block: re.Match) -> str:
        heads, rows = TABLES[block[2]]()
        heads, *rows = [[words.get(cell, cell) for cell in row] for row in (heads, *rows)]
        return f"{block[1]}{markdown_table(heads, rows)}\n{block[3]}"

    return BLOCK.sub(fresh, text)


def out_of_step() -> dict[str, str]:
    """File -> its text as it should be, of those whose tables are not the committed results'."""
    texts = {name: Path(name).read_text("utf-8") for name in FILES}
    fresh = {name: with_tables(text, FILES[name]) for name, text in texts.items()}
    return {name: text for name, text in fresh.items() if text != texts[name]}


def main() -> None:
    """Write the tables, or check them and exit with one sentence."""
    parser = ArgumentParser(prog="python -m asa.evaluation.readme", description="Write the tables of the READMEs.")
    parser.add_argument("--check", action="store_true", help="only say whether they are the committed results'")
    check, behind = parser.parse_args().check, out_of_step()
    if check and behind:
        sys.exit(
            f"{', '.join(behind)}: the tables are not the committed results': run python -m asa.evaluation.readme."
        )
    for name, text in behind.items():
        Path(name).write_text(text, encoding="utf-8")
        print(f"{name}: written")


if __name__ == "__main__":
    main()
