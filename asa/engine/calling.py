"""Calling: the call behind a decision to call, written anew under the grammar of the tools that it may name.

Whether to call is settled before, in the prompt that all requests share, and is not touched. The call is written in a
prompt of its own, which lists only the tools that it may name and shows only examples of calling them. No push is added
there. Which tools a call may name is decided elsewhere (`method.tool_choice`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from asa.data.requests import Request
from asa.engine.answering import answer_chosen
from asa.engine.prefixes import Prefixes
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts
from asa.models.layout import CausalModel
from asa.models.matching import CallGrammar
from asa.models.prompts import Prompter, Turn
from asa.support.files import key_of
from asa.tools.definitions import Tool

KEPT = 4096  # calls that a writer remembers


class CallWriter:
    """Writes calls, each of a request and the tools that it may name once.

    Args:
        model: Writes them.
        prompter: The prompt in which the model decides whether to call; its tools are all that there are.
        rules: What belongs to answers. A call has as many tokens as an answer.
        tools: The same tools with other schemas; None: the prompter's.
        own_prompt: Whether calls are written in a prompt of their own, else in the deciding one.
        bars: Whether there are progress bars.

    Attributes:
        opening: What opens a call, as token ids.

    Raises:
        GrammarError: llguidance is not installed, or the tokenizer is no fast one.
    """

    def __init__(
        self,
        model: CausalModel,
        prompter: Prompter,
        rules: AnswerRules,
        tools: Mapping[str, Tool] | None = None,
        own_prompt: bool = True,
        bars: bool = True,
    ):
        self.model, self.prompter, self.rules, self.own_prompt, self.bars = model, prompter, rules, own_prompt, bars
        self.tools = prompter.tools if tools is None else tools
        self.grammar = CallGrammar(prompter.tokenizer, prompter.profile, prompter.opened)
        thought = "</think>" if prompter.opened else ""  # what the prompt has opened is closed at once
        self._trigger, self.opening = map(self._ids, (rules.markers[0], thought + rules.markers[0]))
        self._prefixes = Prefixes(model)
        self._written: dict[tuple[tuple[str, ...], str, str], list[int]] = {}

    def write(
        self,
        answers: Sequence[list[int]],
        requests: Sequence[Request],
        held: Sequence[tuple[str, ...]],
        history: Sequence[Turn] = (),
    ) -> list[list[int]]:
        """The answers, with the calls of those that call written anew from the trigger on.

        Args:
            answers: `[N]` generated ids; a call need not be finished.
            requests: `[N]`.
            held: `[N]`, names of the tools that a row's call may name.
            history: What was said before the requests.

        Raises:
            ToolsError: A schema says what a grammar cannot.
            PromptError: The prompt for the call is unusable.
            RequestsError: A request leaves no room for its call.
        """
        answers, calling = list(answers), [row for row, ids in enumerate(answers) if self.rules.calls(ids)]
        before = key_of(list(history))
        for names in dict.fromkeys(held[row] for row in calling):
            wanted = {requests[row].text: requests[row] for row in calling if held[row] == names}
            new = [request for text, request in wanted.items() if (names, text, before) not in self._written]
            written = self._write(names, new, history)
            self._written |= {(names, r.text, before): ids for r, ids in zip(new, written, strict=True)}
        for row in calling:
            answers[row] = self._up_to_call(answers[row]) + self._written[held[row], requests[row].text, before]
        for oldest in list(self._written)[: max(0, len(self._written) - KEPT)]:
            del self._written[oldest]
        return answers

    def _write(self, names: tuple[str, ...], requests: Sequence[Request], history: Sequence[Turn]) -> list[list[int]]:
        """Calls of the tools `names`, from behind the trigger on."""
        if not requests:
            return []
        prompter, tools = self.prompter, {name: self.tools[name] for name in names}
        if self.own_prompt:
            prompter = Prompter(prompter.tokenizer, prompter.profile, as_called(tools))
        prompts = fitting_prompts(prompter, self.model, requests, history)
        what = "calls of " + (names[0] if len(names) == 1 else f"{len(names)} tools") if self.bars else ""
        asked = "".join(turn["content"] + "\n" for turn in history if turn["role"] == "user")
        batches = list(self._prefixes.engine(prompter.prefix(history), prompts).batches(prompts, what))
        everyone = np.ones(len(requests), bool)
        found = answer_chosen(
            batches, everyone, self.rules.limit, self.rules.ended, what, opening=self.opening,
            calls=lambda row, said: self.grammar.begin(said, tools, asked + requests[row].text),
        )  # fmt: skip
        return [found[row][len(self.opening) :] for row in range(len(requests))]

    def _up_to_call(self, ids: list[int]) -> list[int]:
        """What an answer says until it has opened its first call, the trigger included."""
        text, rules = self.rules.text, self.rules
        opened = next(end for end in range(1, len(ids) + 1) if rules.calls(ids[:end]))
        before, _, behind = text(ids[:opened]).rpartition(rules.markers[0])
        if not behind:
            return ids[:opened]
        words = next(end for end in range(opened - 1, -1, -1) if len(text(ids[:end])) <= len(before))
        return ids[:words] + self._trigger  # the last token goes on behind the trigger, as its own call no longer does

    def _ids(self, text: str) -> list[int]:
        return self.prompter.tokenizer(text, add_special_tokens=False)["input_ids"]


def as_called(tools: Mapping[str, Tool]) -> dict[str, Tool]:
    """Tools as they are shown where a call is written: with their examples of calls, or else those that call."""
    return {
        name: replace(
            tool,
            examples=tool.call_examples or tuple(each for each in tool.examples if each.arguments is not None),
            call_examples=(),
        )
        for name, tool in tools.items()
    }
