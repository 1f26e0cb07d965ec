"""Calls in vLLM's answers: the tool parser `asa`, for every notation that a profile has.

    vllm serve ... --tool-call-parser asa --enable-auto-tool-choice

A call is given whole, once it is closed: streamed, its words come piece by piece, its calls at once. One that was never
closed is left out; `finish_reason` says that the answer was cut.
"""

import json
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers.abstract_tool_parser import ToolParser

from asa.app.served_answers import Served, served
from asa.app.vllm_process import markers_of_process


class CallParser(ToolParser):
    """vLLM's `ToolParser` of the adapter's model."""

    supports_required_and_named = False  # a call that is asked for is written in the model's own notation, too
    engine_based_streaming = True  # `finish_streaming` is called, and a call that was cut is no content

    def __init__(self, tokenizer: Any, tools: Any = None):
        super().__init__(tokenizer, tools)
        self._text, self._said, self._called = "", 0, 0  # of a stream: what was written, characters and calls given

    def _read(self, text: str, going_on: bool = False) -> Served:
        names = [tool.function.name if hasattr(tool, "function") else tool.name for tool in self.tools]
        return served(text, markers_of_process(), names, going_on)

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """The calls of a whole answer."""
        found = self._read(model_output)
        calls = [ToolCall(function=FunctionCall(name=call.name, arguments=_json(call))) for call in found.calls]
        return ExtractedToolCallInformation(tools_called=bool(calls), tool_calls=calls, content=found.words or None)

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """What is new of an answer that goes on."""
        self._text += delta_text  # the other texts hold what is left over for parsers of another sort
        return self._new(self._read(self._text, going_on=True))

    def finish_streaming(self) -> DeltaMessage | None:
        """What was kept back of an answer that has ended."""
        return self._new(self._read(self._text))

    def _new(self, found: Served) -> DeltaMessage | None:
        words, new = found.words[self._said :], found.calls[self._called :]
        self._said, first = max(self._said, len(found.words)), self._called
        self._called += len(new)
        for call in new:  # which vLLM compares at the end with what was given
            self.prev_tool_call_arr.append({"name": call.name, "arguments": call.arguments})
            self.streamed_args_for_tool.append(_json(call))
        calls = [
            DeltaToolCall(
                index=index, id=make_tool_call_id(), type="function",
                function=DeltaFunctionCall(name=call.name, arguments=_json(call)),
            )
            for index, call in enumerate(new, first)
        ]  # fmt: skip
        return DeltaMessage(content=words or None, tool_calls=calls) if words or calls else None


def _json(call: Any) -> str:
    return json.dumps(call.arguments, ensure_ascii=False)
