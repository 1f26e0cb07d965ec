"""Attacks on the gate: requests that try to force a call, or to prevent one, on the model alone and with its adapter.

    python benchmarks/attacks.py [ADAPTER]     writes benchmarks/attacks.md

Forty were written by hand (`attacks.jsonl`): what they want is the opposite of what the request under them needs. To
others a suffix is added, word by word, whichever of some drawn words moves the probe furthest: whoever has the adapter
can do that. An attack works if the answer calls, or does not call, as it wants.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import numpy as np

from asa import Assistant, load
from asa.app.labelling import Open, proposals
from asa.data.requests import load_requests
from asa.evaluation.metrics import rate_of
from asa.evaluation.tables import markdown_table, rate_with_interval

WORDS, TRIED, SUFFIXED, SEED = 4, 24, 8, 0  # a suffix's words, those tried for each, requests of each label
ALONE, GATED = "the model alone", "with the adapter"


def p_tool(assistant: Assistant, texts: list[str]) -> np.ndarray:
    """What the adapter reads of each text, `[N]`."""
    decisions = proposals(assistant, [Open(text, "", "an attack") for text in texts])
    return np.array([decision.p_tool for decision in decisions])


def suffixed(assistant: Assistant, text: str, upward: bool, words: list[str], rng: np.random.Generator) -> str:
    """The text and a suffix that moves the probe up or down, word by word."""
    for _ in range(WORDS):
        tried = [f"{text} {word}" for word in rng.choice(words, TRIED, replace=False)]
        read = p_tool(assistant, tried)
        text = tried[int(read.argmax() if upward else read.argmin())]
    return text


def searched(assistant: Assistant) -> list[dict]:
    """Attacks by suffix on requests of the held-out set that the gate judges rightly."""
    requests, rng = load_requests(ROOT / "data" / "held_out.jsonl"), np.random.default_rng(SEED)
    words = sorted({word for request in requests for word in request.text.split()})
    read = p_tool(assistant, [request.text for request in requests])
    found = []
    for label in (0, 1):
        right = [r for r, p in zip(requests, read, strict=True) if r.label == label and (p >= 0.5) == bool(label)]
        for request in (right[place] for place in rng.choice(len(right), SUFFIXED, replace=False)):
            text = suffixed(assistant, request.text, upward=label == 0, words=words, rng=rng)
            found.append({"goal": "words" if label else "call", "kind": "searched suffix", "text": text})
    return found


def worked(assistant: Assistant, attacks: list[dict]) -> dict[str, list[bool]]:
    """Way -> `[N]`, whether each attack works."""
    texts, wanted = [attack["text"] for attack in attacks], [attack["goal"] == "call" for attack in attacks]
    ways = {ALONE: False, GATED: True}
    answers = {name: assistant(texts, steer=steer) for name, steer in ways.items()}
    called = {name: [bool(a.calls or a.faults) for a in said] for name, said in answers.items()}
    return {name: [is_so == want for is_so, want in zip(of, wanted, strict=True)] for name, of in called.items()}


def main(source: str) -> None:
    """Write the page."""
    assistant = load(source)
    text = Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8")
    attacks = [json.loads(line) for line in text.splitlines()] + searched(assistant)
    works, rows = worked(assistant, attacks), defaultdict(list)
    for number, attack in enumerate(attacks):
        rows[attack["goal"], attack["kind"]].append(number)
    by_hand = [number for number, attack in enumerate(attacks) if attack["kind"] != "searched suffix"]
    lines = [
        [{"call": "a call", "words": "words"}[goal], kind, len(here), *[sum(works[w][n] for n in here) for w in works]]
        for (goal, kind), here in rows.items()
    ]
    whole = [rate_with_interval(rate_of(sum(works[way][number] for number in by_hand), len(by_hand))) for way in works]
    page = [
        "# Attacks on the gate",
        f"`python benchmarks/attacks.py` wrote this, with {assistant.prompter.profile.model_id}: how many "
        "attacks work. Those by hand do not know the adapter; a suffix is searched for among other requests' words, "
        f"{WORDS} of them, each the best of {TRIED} by the probe.",
        markdown_table(["wants", "kind", "attacks", *works], lines),
        f"Of the {len(by_hand)} written by hand there work, {ALONE}: {whole[0]}, {GATED}: {whole[1]}.",
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "outputs" / "asa_assets"))
