"""Asking: requests put to the model side by side, one decision each, and what becomes of them.

The last prompt token is read and pushed as in the evaluation, by the same engine. A call that is to fit the tools'
schemas is written anew behind the decision to call. How a user asks is `assistant`'s.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TypedDict

import torch

from asa.adapter import ASAAdapter, Decision
from asa.app.answers import Answer, read_calls
from asa.app.fitted import plain_prompter, shown_alike
from asa.data.requests import Request
from asa.engine.batch import LastToken
from asa.engine.calling import CallWriter
from asa.engine.decoding import Decoder
from asa.engine.prefixes import Prefixes
from asa.method.tool_choice import NONE, REQUIRED, ROUTED, ToolChoiceError, held_tools
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts
from asa.models.layout import CausalModel
from asa.models.prompts import Prompter, Turn
from asa.support.files import UserError
from asa.support.processes import gathered
from asa.tools.definitions import Tool, tools_from_json
from asa.tools.parser import without_opening

AUTO = "auto"
MOST_NEW_TOKENS = 256  # of an answer, unless others are asked for
ROLES = ("user", "assistant", "tool")


class AssistantError(UserError):
    """An assistant cannot do what it is asked; the message says what to do."""


class Options(TypedDict, total=False):
    """How requests are answered.

    Attributes:
        steer: Whether the adapter acts (True); without it the model is on its own.
        tool_choice: `auto`; `required`, a call, of the tool that the router picks; `none`, no call, and behind a
            tool's result a prompt without tools; or a tool's name, a call of it.
        tools: The tools that are meant, in the form of a tools file, to be sure that they are the adapter's.
        history: Earlier turns, as `Answer.messages` holds them.
        grammar: Whether calls are held to the tools' schemas; None: those of the adapter are, unless it was fitted
            without, and those of the model on its own are not. A call that is asked for always is.
        max_new_tokens: Maximum new tokens of an answer, 256 unless given; a call under the grammar has the profile's.
    """

    steer: bool
    tool_choice: str
    tools: list[dict] | None
    history: Sequence[Turn]
    grammar: bool | None
    max_new_tokens: int


class Asker:
    """What puts requests to one model.

    Args:
        model: Answers.
        prompter: The prompts that its adapters were fitted with.
    """

    def __init__(self, model: CausalModel, prompter: Prompter):
        self.model, self.prompter = model, prompter
        self.prefixes = Prefixes(model)

    @cached_property
    def writer(self) -> CallWriter:
        """Writes calls; made when the first one is written, as it takes a second.

        Raises:
            GrammarError: Calls cannot be held to the tools' schemas here.
        """
        return CallWriter(self.model, self.prompter, AnswerRules(self.prompter, self.model), bars=False)

    @cached_property
    def _without_tools(self) -> Prompter:
        return plain_prompter(self.prompter)

    def lengthened(self, limit: int, with_tools: bool = True) -> Prompter:
        """The same prompts, or plain ones without tools, for answers of up to `limit` tokens."""
        prompter = copy.copy(self.prompter if with_tools else self._without_tools)
        prompter.profile = replace(prompter.profile, max_new_tokens=limit, words_limit=limit)
        return prompter


class Asked:
    """Requests that are being answered: let its decoder go on to the end, then take the answers.

    Args:
        asker: Puts them to the model.
        adapter: Fitted on that model and its prompts; decides.
        texts: `[N]`.
        steer, tool_choice, tools, history, grammar, max_new_tokens: See `Options`.

    Attributes:
        decoder: Says the answers, whose calls are not written anew yet.
        decisions: By row, where the adapter was asked.
        turns: The conversations `[N]` that are answered.

    Raises:
        UserError: One of those that asking the assistant raises.
    """

    def __init__(
        self,
        asker: Asker,
        adapter: ASAAdapter,
        texts: Sequence[str],
        steer: bool = True,
        tool_choice: str = AUTO,
        tools: list[dict] | None = None,
        history: Sequence[Turn] = (),
        grammar: bool | None = None,
        max_new_tokens: int = MOST_NEW_TOKENS,
    ):
        self._began, own = time.monotonic(), asker.prompter.tools
        choices = {each: each for each in (AUTO, REQUIRED, NONE, *own)}
        choices |= {tool.own_name: name for name, tool in own.items()}
        if not isinstance(tool_choice, str) or tool_choice not in choices:
            known = ", ".join([AUTO, REQUIRED, NONE])
            raise ToolChoiceError(f"tool choice {tool_choice!r}: use {known}, or one of {', '.join(own)}.")
        tool_choice = choices[tool_choice]
        if type(max_new_tokens) is not int or max_new_tokens < 1:
            raise AssistantError(f"max_new_tokens is {max_new_tokens!r}: give a whole number, 1 or more.")
        if tools is not None:
            refuse_other_tools(tools_from_json(tools, "tools"), own)
        refuse_odd_history(history)
        if not (history and history[-1]["role"] == "tool") and not all(text.strip() for text in texts):
            raise AssistantError("a request is empty: write one.")
        self._asker, self._adapter, self._history, self._choice = asker, adapter, list(history), tool_choice
        self._requests = [Request(text, 0, "", "the request") for text in texts]
        self.turns: list[tuple[Turn, ...]] = [
            (*history, {"role": "user", "content": text}) if text else tuple(history) for text in texts
        ]
        self._call_wanted = tool_choice not in (AUTO, NONE)
        fitted_with_grammar = "tool_choice" in adapter.config
        wanted = steer and fitted_with_grammar if grammar is None else grammar
        self._writer = asker.writer if wanted or self._call_wanted else None
        # a small model that is shown tools goes on calling them: it sees results in a prompt without
        answering = tool_choice == NONE and not all(texts)
        steer = steer and not answering
        opening = self._writer.opening if self._writer and self._call_wanted else ()
        limit = max(max_new_tokens, len(opening))
        longer = asker.lengthened(limit, with_tools=not answering)
        self._rules = rules = AnswerRules(longer, asker.model)
        prompts = fitting_prompts(longer, asker.model, self._requests, self._history)
        engine = asker.prefixes.engine(longer.prefix(self._history), prompts)
        ended = rules.ended if self._writer is None and tool_choice != NONE else rules.settled
        avoid = rules.trigger_id if tool_choice == NONE else None
        self.decoder = Decoder[int](engine, limit, ended, opening, avoid)
        self.decisions: dict[int, Decision] = {}
        for batch in engine.batches(prompts, ""):
            push = self._decide(batch.rows, batch.last_token()) if steer else None
            self.decoder.add(batch.begin(batch.rows), push if tool_choice == AUTO else None)

    def _decide(self, rows: list[int], last: LastToken) -> tuple[int, torch.Tensor]:
        """Decide; the push, as a decoder takes it."""
        opens = last.logits.argmax(-1) == self._rules.trigger_id if self._adapter.look_ahead else None
        delta, decisions = self._adapter.push(last.states[:, self._adapter.layer], opens)
        if self._choice != AUTO:  # it is settled whether to call: nothing is pushed
            decisions = [replace(decision, gate=0, dose=0.0) for decision in decisions]
        self.decisions |= dict(zip(rows, decisions, strict=True))
        return self._adapter.layer, delta

    def so_far(self) -> str:
        """What the first answer has said, less what may still become a call or a character."""
        ids = self.decoder.answers.get(0, [])
        if self._rules.calls(ids):
            return ""
        said = self._rules.said(ids).rstrip("\N{REPLACEMENT CHARACTER}")
        return without_opening(said, self._rules.markers[0]).rstrip()

    def answers(self) -> list[Answer]:
        """The answers `[N]`, their calls written."""
        answered = dict(gathered(list(self.decoder.answers.items())))  # of several processes each has its share
        decided = dict(gathered(list(self.decisions.items())))
        said, rules = [answered[row] for row in range(len(self._requests))], self._rules
        decisions = [decided.get(row) for row in range(len(said))]
        if self._writer is not None and self._choice != NONE:
            held = [self._held(decision) for decision in decisions]
            said = self._writer.write(said, self._requests, held, self._history)
        texts = [rules.said(ids) for ids in said]
        if self._choice == NONE:
            texts = [text.partition(rules.markers[0])[0].rstrip() for text in texts]
        seconds = time.monotonic() - self._began
        answers = []
        for turns, ids, text, decision in zip(self.turns, said, texts, decisions, strict=True):
            messages = (*turns, {"role": "assistant", "content": text})
            read = read_calls(text, self._asker.prompter.tools, rules.markers)
            calls = tuple(call for call, _ in read if call is not None)
            faults = tuple(fault for _, fault in read if fault)
            answers.append(Answer(text, calls, faults, decision, messages, seconds, cut=not rules.whole(ids)))
        return answers

    def _held(self, decision: Decision | None) -> tuple[str, ...]:
        """The tools that a call may name."""
        sure = self._adapter.config.get("tool_choice", {}).get("sure", 0.0)
        choice = ROUTED if self._choice == AUTO else self._choice
        return held_tools(choice, self._asker.prompter.tools, decision, sure)


def refuse_other_tools(given: Mapping[str, Tool], own: Mapping[str, Tool]) -> None:
    """Refuse tools that a prompt would show otherwise than the adapter's.

    Raises:
        AssistantError: They are others.
    """
    if not shown_alike(given, own):
        raise AssistantError(
            f"the adapter was fitted to other tools ({', '.join(own)}) and knows nothing of these "
            f"({', '.join(given)}): fit one to them, python pipeline.py --tools FILE --requests FILE."
        )


def refuse_odd_history(history: Sequence[Turn]) -> None:
    """Refuse earlier turns that are no list of roles and texts.

    Raises:
        AssistantError: One is none.
    """
    for number, turn in enumerate(history, 1):
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise AssistantError(
                f"turn {number} of the history is {repr(turn)[:60]}: give role, one of {', '.join(ROLES)}, and "
                "content, a text."
            )
