"""The assistant: a model with its adapter, its prompt and its tools, in one object.

    from asa import load

    assistant = load("outputs/asa_assets")
    print(assistant("What is 17 * 23?"))

It answers greedily, one decision per answer, by the same engine that the adapter was scored with; what conversations
have in common is computed once. It runs no tool but those whose functions it is given (`run`). Nothing is fitted here.
"""

import copy
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Unpack, overload

from asa.adapter import ASAAdapter
from asa.adapter.files import HubOptions
from asa.app.answers import Answer, Compared, Stream
from asa.app.asking import AUTO, Asked, Asker, AssistantError, Options
from asa.app.fitted import fitted_prompter, fitted_with
from asa.method.tool_choice import NONE
from asa.models.layout import CausalModel
from asa.models.loading import hub_answers, load_model
from asa.models.prompts import Prompter
from asa.models.saved_profiles import profile_found
from asa.support.parameters import given_path
from asa.tools.calls import ToolCall


def load(source: str | Path, model: str = "", force: bool = False, **hub: Unpack[HubOptions]) -> "Assistant":
    """Load an adapter with its model, tokenizer, prompt and tools.

    Args:
        source: Adapter folder or hub id.
        model: Model folder or hub id in place of the one that the adapter names; it must hold the same model.
        force: Load an adapter even if its files were changed since they were saved.
        hub: `revision`, `token`, `cache_dir` and `local_files_only`, for an adapter of the hub.

    Raises:
        AdapterError: The adapter or the model does not fit.
        ProfileError: The model's folder is gone.
        ModelError: The model is not available or cannot be used.
        PromptError: Its tokenizer or chat template does not fit, or its prompts are not those of the fit.
        ToolsError: The adapter's tools cannot be used.
    """
    source = given_path("source", source)
    return assistant_of(ASAAdapter.from_pretrained(source, force, **hub), source, model)


def assistant_of(adapter: ASAAdapter, source: str, model: str = "") -> "Assistant":
    """The assistant of an adapter that was loaded from `source`; arguments and errors as of `load`."""
    saved, tools, expected = fitted_with(adapter, f"{source}/config.json")
    profile = profile_found(saved, source, adapter.config.get("model_source", ""), model.strip())
    loaded, tokenizer, _ = load_model(profile, hub_answers())
    adapter.check_model(loaded)
    return Assistant(adapter, loaded, fitted_prompter(tokenizer, profile, tools, expected))


class Assistant:
    """Answers requests, and calls tools where they need one.

    Args:
        adapter: Fitted on this model and these prompts.
        model: Answers.
        prompter: The prompts that the adapter was fitted with.

    Attributes:
        adapter: As given, for `with assistant.adapter.steer(assistant.model)`.
        model: As given.
        prompter: Its `ids(text)` are a request's prompt.
        tools: By name.
    """

    def __init__(self, adapter: ASAAdapter, model: CausalModel, prompter: Prompter):
        self.adapter, self.model, self.prompter, self.tools = adapter, model, prompter, prompter.tools
        self._asker = Asker(model, prompter)

    def tuned(self, tau: float | None = None, dose: float | None = None) -> "Assistant":
        """An assistant whose adapter has another gate or dose; what was computed for the two is shared.

        Raises:
            AdapterError: See `ASAAdapter.tuned`.
        """
        return self._with(self.adapter.tuned(tau, dose))

    def with_target_fpr(self, fpr: float) -> "Assistant":
        """An assistant whose gate opens for a share `fpr` of the requests that need no tool; it shares as `tuned`'s.

        Raises:
            AdapterError: See `ASAAdapter.with_target_fpr`.
        """
        return self._with(self.adapter.with_target_fpr(fpr))

    def _with(self, adapter: ASAAdapter) -> "Assistant":
        assistant = copy.copy(self)
        assistant.adapter = adapter
        return assistant

    @overload
    def __call__(self, text: str, *, stream: Literal[False] = False, **options: Unpack[Options]) -> Answer: ...
    @overload
    def __call__(self, text: str, *, stream: Literal[True], **options: Unpack[Options]) -> Stream: ...
    @overload
    def __call__(self, text: list[str], **options: Unpack[Options]) -> list[Answer]: ...
    def __call__(
        self, text: str | list[str], *, stream: bool = False, **options: Unpack[Options]
    ) -> Answer | list[Answer] | Stream:
        """Answer a request, or several side by side.

        Args:
            text: A request, or a list of them. Behind a tool's result it may be empty.
            stream: Give the answer as a `Stream` of pieces; of one request only.
            options: See `Options`.

        Returns:
            An `Answer`, a list of them in the order of the requests, or a `Stream`.

        Raises:
            AssistantError: An option is none, or the tools are not those that the adapter was fitted with.
            ToolChoiceError: There is no such tool choice.
            PromptError: A request cannot be put to the model.
            RequestsError: A request is too long for the model.
            GrammarError: Calls cannot be held to the tools' schemas here.
            ToolsError: `tools` are none.
        """
        if isinstance(text, str):
            return self._stream(text, **options) if stream else self._answered([text], **options)[0]
        if stream:
            raise AssistantError("several requests cannot be streamed: ask one at a time, or leave stream out.")
        return self._answered(text, **options) if text else []

    def compare(self, text: str, **options: Unpack[Options]) -> Compared:
        """Answer a request without and with the adapter; `options` are of the steered answer but for the history."""
        alone = self(text, steer=False, history=options.get("history", ()))
        return Compared(text, alone, self(text, **(options | {"steer": True})))

    def run(
        self, text: str, functions: Mapping[str, Callable[..., Any]], rounds: int = 1, **options: Unpack[Options]
    ) -> Answer:
        """Answer a request, and run the calls until the model answers in words.

        Args:
            text: The request.
            functions: By tool name; each is called with the arguments by name, and gives text or what JSON can hold.
            rounds: How often calls are run at most; what follows the last results is in words. The adapter is fitted to
                requests, not to results, so what it decides behind them is a guess.
            options: See `Options`.

        Returns:
            The last answer; its `messages` hold the calls and their results. One whose calls have faults is the last.

        Raises:
            AssistantError: A tool is called that has no function, or its function fails; or as calling the assistant.
        """
        for stream in self.streams(text, functions, rounds, **options):
            answer = stream.finish()
        return answer

    def streams(
        self,
        text: str,
        functions: Mapping[str, Callable[..., Any]] | None,
        rounds: int = 1,
        **options: Unpack[Options],
    ) -> Iterator[Stream]:
        """As `run`, an answer at a time, each to be read to its end before the next; without functions there is one.

        Raises:
            AssistantError: As `run`.
        """
        for left in range(rounds, -1, -1):
            stream = self._stream(text, **options)
            yield stream
            answer = stream.answer
            if not left or functions is None or answer is None or not answer.calls or answer.faults:
                return
            results = [{"role": "tool", "content": _result(call, functions)} for call in answer.calls]
            text, choice = "", AUTO if left > 1 else NONE
            options |= {"history": (*answer.messages, *results), "tool_choice": choice}

    def _answered(self, texts: list[str], **options: Unpack[Options]) -> list[Answer]:
        asked = Asked(self._asker, self.adapter, texts, **options)
        asked.decoder.finish()
        return asked.answers()

    def _stream(self, text: str, **options: Unpack[Options]) -> Stream:
        asked = Asked(self._asker, self.adapter, [text], **options)
        return Stream(_pieces(asked), asked.turns[0], asked.decisions.get(0))


def _pieces(asked: Asked) -> Generator[str, None, Answer]:
    """The only answer's text, as it is said."""
    given = ""
    for _ in asked.decoder.steps():
        if (more := asked.so_far()).startswith(given):
            yield more[len(given) :]
            given = more
    (answer,) = asked.answers()
    yield answer.text.removeprefix(given)
    return answer


def _result(call: ToolCall, functions: Mapping[str, Callable[..., Any]]) -> str:
    """What a call gives, as text."""
    if call.name not in functions:
        raise AssistantError(
            f"the model calls {call.name}, which has no function: give one (functions=, or --functions in a terminal)."
        )
    try:
        given = functions[call.name](**call.arguments)
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, default=str)
    except Exception as error:  # the function is a program
        said = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        raise AssistantError(
            f"{call.name}({said}) failed ({type(error).__name__}: {error}): correct the function, or ask otherwise."
        ) from error
