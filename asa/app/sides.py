"""Sides: one request put to the model alone and with its adapter, both answers written in turn.

Plain data, whatever shows it; how is `web`'s.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from asa.adapter.decision import Decision
from asa.app.answers import Answer
from asa.app.asking import Options
from asa.app.assistant import Assistant
from asa.models.prompts import Turn
from asa.support.files import UserError


@dataclass(frozen=True)
class Side:
    """One of the two conversations.

    Attributes:
        turns: All that is said, the answer that is being written included.
        answers: Those that are whole.
        decision: The last of the adapter; None where it was not asked.
        error: Why the last request has no answer; else empty.
    """

    turns: tuple[Turn, ...] = ()
    answers: tuple[Answer, ...] = ()
    decision: Decision | None = None
    error: str = ""


def replies(
    assistant: Assistant,
    side: Side,
    text: str,
    functions: Mapping[str, Callable[..., Any]] | None,
    options: Options,
) -> Iterator[Side]:
    """A conversation as its next answer is written; where that fails, the last one is as before, with the error."""
    now = replace(side, error="", decision=None)
    try:
        for stream in assistant.streams(text, functions, **(options | {"history": side.turns})):
            now, said = replace(now, decision=now.decision or stream.decision), ""
            for piece in itertools.chain([""], stream):
                said += piece
                yield replace(now, turns=(*stream.turns, {"role": "assistant", "content": said or "..."}))
            answer = stream.finish()
            now = replace(now, turns=answer.messages, answers=(*now.answers, answer))
            yield now
    except UserError as error:
        yield replace(side, error=str(error), decision=None)


def in_turn(left: Iterator[Side], right: Iterator[Side]) -> Iterator[tuple[Side, Side]]:
    """Both conversations, each a piece further than before, until both are whole."""
    now: list = [next(left), next(right)]
    yield now[0], now[1]
    for pair in itertools.zip_longest(left, right):
        now = [new or old for new, old in zip(pair, now, strict=True)]
        yield now[0], now[1]


def transcript(assistant: Assistant, sides: tuple[Side, Side]) -> str:
    """Both conversations as JSON."""
    whole: dict[str, Any] = {"model": assistant.prompter.profile.model_id}
    for name, side in zip(("baseline", "asa"), sides, strict=True):
        whole[name] = {"messages": side.turns, "answers": [answer.to_json() for answer in side.answers]}
        for answer in whole[name]["answers"]:
            del answer["messages"]
    return json.dumps(whole, ensure_ascii=False, indent=2)
