"""Requests to vLLM's chat API, put as the adapter was fitted: its prompt, a grammar for its calls, and steered or not.

A request with the adapter's tools gets the prompt of the fit and is steered; one with other tools gets their prompt and
is not, or is refused where `ASA_STRICT` is 1. The answer behind a tool's result is in words, as `Assistant.run` has it.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from asa.app.fitted import plain_prompter, shown_alike
from asa.app.vllm_process import is_on, is_steered
from asa.models.answer_grammar import AUTO, NONE, REQUIRED, answer_grammar
from asa.models.prompts import Prompter, Turn
from asa.support.files import UserError
from asa.tools.definitions import Tool, render_call, tools_from_json
from asa.tools.forms import written_name
from asa.tools.grammar import MOST_CALLS

STRICT = "ASA_STRICT"
NOT_THEIRS = (  # of a request: what would make another prompt than that of the fit
    "add_generation_prompt", "continue_final_message", "chat_template", "chat_template_kwargs", "documents",
    "truncate_prompt_tokens",
)  # fmt: skip


class RequestError(UserError):
    """A request cannot be put to the model; the message says what to do."""


class Putter:
    """Puts a chat request as the adapter was fitted.

    Args:
        prompter: The prompts of the fit.
        strict: Whether other tools than the adapter's are refused.
    """

    def __init__(self, prompter: Prompter, strict: bool = False):
        self.prompter, self.strict = prompter, strict
        self._plain = plain_prompter(prompter)
        self._other = lru_cache(64)(self._with_tools)

    def __call__(self, body: Any) -> tuple[Any, str]:
        """The body of a request as vLLM is to get it, and what was done, in words.

        Raises:
            RequestError: Messages or tools are of no use; or the tools are others, and `strict`.
            PromptError: A message cannot be put to the model.
            ToolsError: A tool cannot be used, or its schema says what a grammar cannot.
        """
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return body, "unsteered: no messages"  # vLLM says so
        given = body.get("vllm_xargs")
        extra: dict = dict(given) if isinstance(given, dict) else {}
        if not body.get("tools"):
            return body | {"vllm_xargs": extra | {"asa": 0}}, "unsteered: the request has no tools"
        tools, own = tools_from_json(body["tools"], "tools"), self.prompter.tools
        fitted = shown_alike(tools, own)
        if not fitted and self.strict:
            raise RequestError(
                f"the adapter was fitted to other tools ({', '.join(own)}) and knows nothing of these "
                f"({', '.join(tools)}): send its own, or start the server without {STRICT}."
            )
        prompter = self.prompter if fitted else self._other(json.dumps(body["tools"]))
        turns, request = conversation(body["messages"], prompter.profile.markers)
        choice, held = chosen(body.get("tool_choice"), prompter.tools)
        if choice == AUTO and not request:
            choice = NONE
        if choice == NONE:  # a small model that is shown tools goes on calling them
            prompter = self._plain
        prompter.ids(request, turns)  # refuses what cannot be put
        changed = {key: value for key, value in body.items() if key not in NOT_THEIRS}
        changed |= {"messages": prompter.turns(request, turns), "skip_special_tokens": False}
        if choice == NONE:
            changed["tool_choice"] = NONE
        if prompter.profile.turn_end:
            stop = body.get("stop") or []
            changed["stop"] = [*([stop] if isinstance(stop, str) else stop), prompter.profile.turn_end]
        if choice == REQUIRED or (not _constrained(body) and is_on(extra.pop("asa_grammar", 1))):
            single = isinstance(body.get("tool_choice"), dict) or body.get("parallel_tool_calls") is False
            asked = "\n".join([*(turn["content"] for turn in turns if turn["role"] == "user"), request])
            told = (prompter.tokenizer, prompter.profile, held, choice, asked, 1 if single else MOST_CALLS)
            changed |= {"structured_outputs": {"grammar": answer_grammar(*told)}, "response_format": None}
        why = _why_not(fitted, choice, request) if is_steered(extra) else "the request says so"
        changed["vllm_xargs"] = extra | {"asa": 0 if why else 1}
        return changed, f"unsteered: {why}" if why else "steered"

    def _with_tools(self, tools: str) -> Prompter:
        prompter = self.prompter
        return Prompter(prompter.tokenizer, prompter.profile, tools_from_json(json.loads(tools), "tools"))


def _constrained(body: dict) -> bool:
    """Whether a client constrains the answer itself, so that it can hold no call."""
    form = body.get("response_format")
    return bool(body.get("structured_outputs")) or (isinstance(form, dict) and form.get("type") not in (None, "text"))


def _why_not(fitted: bool, choice: str, request: str) -> str:
    """Why a request is not steered; "" where it is."""
    if not fitted:
        return "the tools are not the adapter's"
    if not request:
        return "a tool's result is answered"
    return "" if choice == AUTO else "tool_choice says whether to call"


def chosen(choice: Any, tools: Mapping[str, Tool]) -> tuple[str, Mapping[str, Tool]]:
    """What an answer is to be, and the tools that a call may name, by OpenAI's `tool_choice`.

    Raises:
        RequestError: It names no such tool.
    """
    if choice in (None, AUTO, REQUIRED, NONE):
        return choice or AUTO, tools
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    for tool in tools.values():
        if name in (tool.name, tool.own_name):
            return REQUIRED, {tool.name: tool}
    raise RequestError(f"tool_choice names no tool of the request: use {AUTO}, {REQUIRED}, {NONE} or one of its tools.")


def conversation(messages: list, markers: tuple[str, str]) -> tuple[list[Turn], str]:
    """Earlier turns as `Prompter` takes them, and the request; "" where a tool's result is to be answered.

    The system's text stands in front of the first request, as the prompt of the fit has a system text of its own.

    Raises:
        RequestError: A message is of no use, or the last one is the assistant's.
    """
    turns, system = [], []
    for number, message in enumerate(messages, 1):
        role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
        text = _text(content)
        if text is None or role not in ("system", "developer", "user", "assistant", "tool"):
            raise RequestError(f"message {number} has no role that is known, or more than text: mend it.")
        if role in ("system", "developer"):
            system.append(text)
        elif role == "assistant":
            turns.append({"role": role, "content": text + _calls(message.get("tool_calls") or [], number, markers)})
        else:
            turns.append({"role": role, "content": text})
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    if (
        not first
        or turns[-1]["role"] == "assistant"
        or not (turns[-1]["role"] == "tool" or turns[-1]["content"].strip())
    ):
        raise RequestError("there is nothing to answer: let the last message be the user's, or a tool's.")
    first["content"] = "\n\n".join([*filter(str.strip, system), first["content"]])
    return (turns, "") if turns[-1]["role"] == "tool" else (turns[:-1], turns[-1]["content"])


def _text(content: Any) -> str | None:
    """A message's content as text; None where it holds more."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(parts) if len(parts) == len(content) else None


def _calls(calls: Any, number: int, markers: tuple[str, str]) -> str:
    """The calls of an assistant's message, as the model writes them."""
    try:
        named = [(call["function"]["name"], call["function"].get("arguments") or "{}") for call in calls]
        read = [(name, json.loads(given) if isinstance(given, str) else given) for name, given in named]
        written = [render_call(written_name(name), given) for name, given in read]
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"message {number} has tool calls that cannot be read ({error}): mend them.") from error
    return f"{markers[0]}[{', '.join(written)}]{markers[1]}" if written else ""
