"""Answers: what an assistant gives back for a request.

An answer's calls are read and checked here, never run.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asa.adapter.decision import Decision, does_anyway
from asa.evaluation.comparisons import Comparison
from asa.models.prompts import Turn
from asa.support.files import UserError
from asa.tools.calls import ToolCall, ToolCallError
from asa.tools.definitions import Tool, check_call
from asa.tools.parser import parse_tool_calls


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: What the model says, without thoughts and without what ends its turn; a call in the model's own notation.
        calls: The calls in it that can be read, in order.
        faults: What is wrong with its calls, a sentence each; empty where all of them fit the tools' schemas.
        decision: Of the adapter; None where it was not asked.
        messages: The conversation up to here, as `history` of the next request.
        seconds: What it took; of several requests at once, all of them together.
        cut: Whether it goes on beyond the tokens that it was given (`max_new_tokens`).
    """

    text: str
    calls: tuple[ToolCall, ...]
    faults: tuple[str, ...]
    decision: Decision | None
    messages: tuple[Turn, ...]
    seconds: float
    cut: bool = False

    def __str__(self) -> str:
        """The text."""
        return self.text

    def to_json(self) -> dict[str, Any]:
        """The answer as a plain object."""
        return {
            "text": self.text,
            "calls": [vars(call) for call in self.calls],
            "faults": list(self.faults),
            "decision": None if self.decision is None else vars(self.decision),
            "messages": list(self.messages),
            "seconds": round(self.seconds, 3),
            "cut": self.cut,
        }


@dataclass(frozen=True)
class Compared:
    """A request's answers without and with the adapter."""

    request: str
    baseline: Answer
    asa: Answer

    def __str__(self) -> str:
        """Both texts, a line each."""
        return f"baseline  {self.baseline}\nASA       {self.asa}"

    def row(self) -> Comparison:
        """Both as a row of `show_comparisons`."""
        assert self.asa.decision is not None  # a steered answer has one
        return Comparison(self.request, None, self.baseline.text, self.asa.text, self.asa.decision)


class Stream:
    """An answer as it is written: iterate over its pieces of text, then take `answer`.

    A call is one piece, since half of it is of no use.

    Args:
        pieces: Yields text and returns the answer.
        turns: See below.
        decision: See below.

    Attributes:
        turns: The conversation that is answered.
        decision: Of the adapter, known before the first piece; None where it was not asked.
        answer: Once all pieces are given; None until then.
    """

    def __init__(self, pieces: Generator[str, None, Answer], turns: Sequence[Turn], decision: Decision | None):
        self._pieces, self.turns, self.decision = pieces, tuple(turns), decision
        self.answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        """The pieces that are left."""
        return self

    def __next__(self) -> str:
        """The next piece."""
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.answer = self.answer or end.value
            raise

    def finish(self) -> Answer:
        """The answer, after whatever pieces of it are left.

        Raises:
            UserError: A fault broke it off before.
        """
        for _ in self:
            pass
        if self.answer is None:
            raise UserError("this answer was broken off: ask again.")
        return self.answer


def push_in_words(decision: Decision) -> str:
    """What was done to an answer.

    >>> push_in_words(Decision("math", 0.9, 1, 5, 0.0, 0.8, opens=True))
    'not pushed: the model calls anyway'
    """
    if does_anyway(decision.gate, decision.opens):
        return f"not pushed: the model {'calls' if decision.opens else 'answers in words'} anyway"
    return {1: "pushed toward a call", 0: "not pushed", -1: "pushed away from a call"}[decision.gate]


def read_calls(text: str, tools: Mapping[str, Tool], markers: tuple[str, str]) -> list[tuple[ToolCall | None, str]]:
    """The calls in an answer, by the names that the tools' owner knows, each with what is wrong with it, if anything.

    >>> read_calls("<t>[find(query=3)]</t>", {}, ("<t>", "</t>"))
    [(ToolCall(name='find', arguments={'query': 3}), 'there is no tool find')]
    >>> read_calls("<t>[find(", {}, ("<t>", "</t>"))[0][0] is None  # a call that cannot be read
    True
    """
    try:
        return [_judged(call, tools) for call in parse_tool_calls(text, markers=markers)]
    except ToolCallError as error:
        return [(None, str(error))]


def _judged(call: ToolCall, tools: Mapping[str, Tool]) -> tuple[ToolCall, str]:
    known, fits = check_call(call, dict(tools))
    if not known:
        return call, f"there is no tool {call.name}"
    named = replace(call, name=tools[call.name].own_name)
    return named, "" if fits else f"the arguments of {named.name} do not fit its schema"
