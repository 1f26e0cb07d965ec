"""Readers: what more requests in the voices of many people bring, on requests by authors who knew none of them.

    python benchmarks/readers.py FILE.parquet     writes benchmarks/readers.md; FILE is Alpaca

The readers of the committed adapters are fitted anew with more and fewer of `data/readers.jsonl`, beside all else that
they learn from; layer and regularisation stay as they were chosen. The gate alone is scored, at p = 0.5. Nothing is
chosen here.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import numpy as np

from asa import Assistant, load
from asa.data.examples import deal_requests, without_examples
from asa.data.requests import Request, choose_requests, further_requests, load_requests
from asa.data.scores import confusion
from asa.data.splits import ReadSplit
from asa.engine.states import read_requests
from asa.evaluation.metrics import mean_and_std
from asa.evaluation.results import Results
from asa.evaluation.tables import markdown_table, mean_and_deviation, printed
from asa.method.probes import Readers, fit_readers
from asa.tools.definitions import domains_of

MODELS = {"SmolLM2": "outputs", "Gemma": "outputs/gemma3-270m"}
SIZES = (0, 250, 500, 750, 1000)  # of the readers' requests; then all of them
DRAWS = 3
ASKED = {"everyday": "blind.jsonl", "plain": "held_out.jsonl"}


def learned_from(assistant: Assistant, alpaca: str) -> tuple[list[Request], list[Request]]:
    """What the adapter's readers learn from: without the readers' requests, and these."""
    data, tools, domains = str(ROOT / "data"), assistant.tools, domains_of(assistant.tools)
    requests, _, _ = choose_requests("", alpaca, False, data, domains)
    _, dealt, _ = deal_requests(requests, further_requests(data, domains), tools, True, 0)
    known = dealt["cal"] + dealt["train"] + dealt["spare"]
    parts: dict[bool, list[Request]] = {False: [], True: []}
    for request in known:
        parts[request.source.startswith("readers.jsonl")].append(request)
    return parts[False], parts[True]


def curve(assistant: Assistant, probe: tuple[float, float], alpaca: str) -> list[list]:
    """A row per size: F1 and false-positive rate on both sets, mean and standard deviation over draws."""
    model, prompter, domains = assistant.model, assistant.prompter, domains_of(assistant.tools)
    layer = assistant.adapter.layer

    def fitted(known: ReadSplit) -> Readers:
        return fit_readers(known.states[:, layer], known.labels, known.domains, domains, *probe)

    rest, readers = (read_requests(model, prompter, requests, "known") for requests in learned_from(assistant, alpaca))
    sets = {name: load_requests(ROOT / "data" / file, domains) for name, file in ASKED.items()}
    asked = {
        name: read_requests(model, prompter, without_examples(requests, assistant.tools), name)
        for name, requests in sets.items()
    }
    rng, rows = np.random.default_rng(0), []
    orders = [rng.permutation(len(readers)) for _ in range(DRAWS)]
    for size in (*SIZES, len(readers)):
        drawn = [order[:size] for order in (orders[:1] if size in (0, len(readers)) else orders)]
        fits = [fitted(rest + readers.chosen(some)) for some in drawn]
        cells = []
        for of in asked.values():
            found = [confusion(fit.p_tool(of.states[:, layer]) >= 0.5, of.labels) for fit in fits]
            for rate in ("f1", "fpr"):
                values = [each[rate] for each in found]
                cells.append(mean_and_deviation(mean_and_std(values)) if len(values) > 1 else printed(*values))
        rows.append([size, *cells])
    return rows


def main(alpaca: str) -> None:
    """Write the page."""
    rows, at = [], []
    for name, folder in MODELS.items():
        probe = Results.load(ROOT / folder / "results.json").readings.probe
        assistant = load(ROOT / folder / "asa_assets")
        rows += [[name, *row] for row in curve(assistant, (probe["C"], probe["own"]), alpaca)]
        at.append(f"{name}: {assistant.adapter.layer}")
    layers = ", ".join(at)
    heads = [f"{name}: {rate}" for name in ASKED for rate in ("F1", "FPR")]
    text = [
        "# What the readers' requests bring",
        "`python benchmarks/readers.py` wrote this: the gate alone, its probes weighed by the router, fitted with so "
        f"many of `data/readers.jsonl` beside all else, at the layers of the committed adapters ({layers}); mean ± "
        f"standard deviation over {DRAWS} draws. *Everyday*: `data/blind.jsonl`, *plain*: `data/held_out.jsonl`, both "
        "by authors who knew none of the others.",
        markdown_table(["model", "requests", *heads], rows),
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
