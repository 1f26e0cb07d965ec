"""Calls: what holding them to the tools' grammar costs, in building it and in decoding.

    python benchmarks/calls.py               writes benchmarks/calls.md

Calls of `data/held_out.jsonl` are written behind the trigger, one alone and 64 side by side; the time that is spent
inside the grammar is set against the rest of the same decoding. Whether the calls are right is asked elsewhere.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

from asa import Assistant, load
from asa.data.requests import load_requests
from asa.engine.calling import CallWriter
from asa.evaluation.tables import markdown_table
from asa.languages import reading, trees
from asa.models.answers import AnswerRules
from asa.models.matching import CallGrammar, CallMatcher, token_table
from asa.tools import strings
from asa.tools.definitions import Tool

ROUNDS = 5
KEPT = (strings.letter, strings.free_text, strings._pattern, trees.without, reading.shortest, reading.longest_way_out)
MODELS = {"SmolLM2": "outputs/asa_assets", "Gemma": "outputs/gemma3-270m/asa_assets"}


class Timed:
    """A method that adds up the seconds it takes."""

    def __init__(self, owner: type, name: str):
        self.owner, self.name, self.own, self.seconds = owner, name, getattr(owner, name), 0.0

    def __enter__(self) -> "Timed":
        """Begin to measure."""
        own = self.own

        def timed(*arguments):
            begun = time.perf_counter()
            try:
                return own(*arguments)
            finally:
                self.seconds += time.perf_counter() - begun

        setattr(self.owner, self.name, timed)
        return self

    def __exit__(self, *_: object) -> None:
        """Give the method back."""
        setattr(self.owner, self.name, self.own)


def median(measure: Callable[[], float]) -> float:
    """Of `ROUNDS` measurements."""
    return statistics.median(measure() for _ in range(ROUNDS))


def building(assistant: Assistant, tools: dict[str, Tool], again: bool = False) -> float:
    """Seconds that a grammar of `tools` takes, the tokenizer's table being there; `again`, for a further request."""
    prompter = assistant.prompter
    opening = prompter.tokenizer(prompter.profile.trigger, add_special_tokens=False)["input_ids"]

    def build() -> float:
        if not again:
            for kept in KEPT:
                kept.cache_clear()
        grammar = CallGrammar(prompter.tokenizer, prompter.profile, prompter.opened)
        begun = time.perf_counter()
        assert grammar.begin(list(opening), tools, "What is 17 times 23?") is not None
        return time.perf_counter() - begun

    return median(build)


def decoding(assistant: Assistant, count: int) -> tuple[float, float]:
    """Seconds inside the grammar, and of all decoding, of `count` calls side by side; plain schemas are built once."""
    requests = [request for request in load_requests(ROOT / "data" / "held_out.jsonl") if request.label][:count]
    writer = CallWriter(
        assistant.model, assistant.prompter, AnswerRules(assistant.prompter, assistant.model), bars=False
    )
    inside, whole = [], []
    for _ in range(ROUNDS + 1):  # the first builds grammars and begins prompts
        writer._written.clear()
        with Timed(CallMatcher, "token") as tokens:
            begun = time.perf_counter()
            writer.write([list(writer.opening)] * len(requests), requests, [tuple(writer.tools)] * len(requests))
            whole.append(time.perf_counter() - begun)
        inside.append(tokens.seconds)
    return statistics.median(inside[1:]), statistics.median(whole[1:])


def many(tools: dict[str, Tool], count: int) -> dict[str, Tool]:
    """`count` tools, the given ones under other names."""
    given = [*tools.values()]
    copies = (replace(given[number % len(given)], name=f"tool_{number}") for number in range(count))
    return {tool.name: tool for tool in copies}


def main() -> None:
    """Write the page."""
    built, decoded = [], []
    for name, folder in MODELS.items():
        assistant = load(ROOT / folder)
        begun = time.perf_counter()
        token_table(assistant.prompter.tokenizer)
        table = time.perf_counter() - begun
        four, hundred = assistant.tools, many(assistant.tools, 100)
        times = [building(assistant, four), building(assistant, four, again=True), building(assistant, hundred)]
        built.append([name, *(f"{1000 * seconds:.0f} ms" for seconds in (table, *times))])
        for count in (1, 64):
            inside, whole = decoding(assistant, count)
            decoded.append(
                [name, count, f"{whole:.2f} s", f"{inside:.3f} s", f"{100 * inside / (whole - inside):.1f} %"]
            )
    text = [
        "# What the grammar of calls costs",
        f"`python benchmarks/calls.py` wrote this: medians of {ROUNDS} rounds, 2 cores.",
        "## Building",
        "The tokenizer's table is built once and kept, a grammar once per list of tools, or, where an argument is a "
        "copy of the request's words, once per request; what does not depend on the request is kept. Aimed at: 50 ms "
        "for 4 tools, 1 s for 100.",
        markdown_table(["model", "table", "4 tools", "the same, a further request", "100 tools"], built),
        "## Decoding",
        "Calls written side by side, any of the four tools; the prompts' prefill is in the whole time. Aimed at: 3 %.",
        markdown_table(["model", "calls", "whole", "choosing tokens in the grammar", "over the rest"], decoded),
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
