"""Prompts: system text, example turns and a request, as tokens.

The tool list is written into the system text by us (a template's own `tools=` may print today's date), the chat
template does the rest, and special tokens come from the template alone: a special token's text inside a request is
broken up, so that a request cannot open a turn or a tool call. The part that all prompts share is found on tokens,
not on text, because a tokenizer may merge across the seam.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace

from asa.profiles import Profile
from asa.requests import Request, RequestsError
from asa.tools import Example, Tool, ToolCall, check_call, render_call


class Prompter:
    """Renders requests for one model.

    Args:
        tokenizer: With a chat template.
        profile: System text and call format.
        tools: Tools by name, in order, with examples where the profile shows any.

    Attributes:
        messages: The turns in front of every request.
        template_hash: First 16 hex digits of the chat template's SHA-256.

    Raises:
        ValueError: The tokenizer has no chat template.
    """

    def __init__(self, tokenizer, profile: Profile, tools: dict[str, Tool]):
        if not tokenizer.chat_template:
            raise ValueError(f"{profile.model_id} has no chat template: choose an instruction-tuned model.")
        self.tokenizer, self.profile, self.tools = tokenizer, profile, tools
        self.template_hash = hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()[:16]
        self.messages = [{"role": "system", "content": system_text(profile, tools)}]
        if profile.few_shot:
            for tool in tools.values():
                for example in tool.examples:
                    self.messages.append({"role": "user", "content": self._plain(example.request)})
                    self.messages.append({"role": "assistant", "content": self._reaction(tool, example)})

    def _reaction(self, tool: Tool, example: Example) -> str:
        if example.arguments is None:
            return self._plain(str(example.answer))
        opening, closing = self.profile.markers
        return f"{opening}[{self._plain(render_call(tool.name, example.arguments))}]{closing}"

    def _plain(self, text: str) -> str:
        for token in self.tokenizer.get_added_vocab():
            if token in text:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def text(self, request: str) -> str:
        """The whole prompt as text, up to where the assistant speaks."""
        turns = [*self.messages, {"role": "user", "content": self._plain(request)}]
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)

    def ids(self, request: str) -> list[int]:
        """The whole prompt as token ids; the template's special tokens only, so never a second beginning of text."""
        return self.tokenizer(self.text(request), add_special_tokens=False)["input_ids"]

    def key(self) -> str:
        """Hash of all that shapes a prompt but the request."""
        return hashlib.sha256(self.text("").encode()).hexdigest()[:16]


def system_text(profile: Profile, tools: dict[str, Tool]) -> str:
    """The system text with the tool list written in."""
    if profile.tools_as_json:
        listed = json.dumps([tool.schema() for tool in tools.values()], ensure_ascii=False)
    else:
        signatures = [f"{t.name}({', '.join(t.parameters.get('properties', {}))})" for t in tools.values()]
        listed = "\n".join(f"{s}: {t.description}" for s, t in zip(signatures, tools.values(), strict=True))
    return profile.system.replace("{tools}", listed)


def shared_prefix(prompts: list[list[int]]) -> list[int]:
    """The longest common prefix that leaves every prompt at least two tokens.

    >>> shared_prefix([[1, 2, 3, 4], [1, 2, 3, 9, 4]])
    [1, 2]
    """
    length = min(len(prompt) for prompt in prompts) - 2
    first = prompts[0]
    for prompt in prompts[1:]:
        while prompt[:length] != first[:length]:
            length -= 1
    return first[:length]


def with_examples(tools: dict[str, Tool], requests: Iterable[Request]) -> tuple[dict[str, Tool], list[Request]]:
    """Give every tool one example call and one answer in words, from its own examples or else from the requests.

    A request used as an example leaves the pool. Its call is a plain one: the request in the first text argument.

    Returns:
        The tools, and the requests that are left.

    Raises:
        RequestsError: A tool has neither examples nor requests of both labels, or a plain call does not fit its schema.
    """
    pool = list(requests)
    filled = {}
    for name, tool in tools.items():
        examples = list(tool.examples)
        for label in (1, 0):
            if any((example.arguments is not None) == bool(label) for example in examples):
                continue
            found = next((r for r in pool if r.domain == tool.domain and r.label == label), None)
            if found is None:
                raise RequestsError(
                    f"tool {name!r} has no example and no request with label {label}: give its tools entry an example."
                )
            pool.remove(found)
            if label:
                arguments = plain_arguments(tool.parameters, found.text)
                if not check_call(ToolCall(name, arguments), {name: tool})[1]:
                    raise RequestsError(
                        f"tool {name!r} has no example call, and no plain one fits its parameters: "
                        "give its tools entry an example."
                    )
                examples.append(Example(found.text, arguments=arguments))
            else:
                examples.append(Example(found.text, answer="I can answer that in words."))
        filled[name] = replace(tool, examples=tuple(examples))
    return filled, pool


def plain_arguments(schema: dict, text: str) -> dict:
    """The simplest arguments that fit `schema`'s required properties, `text` for its strings.

    >>> plain_arguments({"properties": {"q": {"type": "string"}, "n": {"type": "integer"}}, "required": ["q"]}, "hi")
    {'q': 'hi'}
    """
    properties = schema.get("properties", {})
    return {name: _plain_value(properties.get(name), text) for name in schema.get("required", [])}


def _plain_value(schema: dict | bool | None, text: str):
    schema = schema if isinstance(schema, dict) else {}
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return plain_arguments(schema, text)
    return {"integer": 1, "number": 1, "boolean": True, "array": [], "null": None}.get(kind, text)
