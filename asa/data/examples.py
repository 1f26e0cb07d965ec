"""Examples: the requests that a prompt shows answered, and the plain calls that stand for a right one.

A request that stands among the examples, or resembles one, is scored nowhere: its answer is in the prompt.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from asa.data.duplicates import apart_from
from asa.data.requests import Request, RequestsError
from asa.data.splits import FULL, Shares, spare_requests, split_requests
from asa.tools.calls import ToolCall
from asa.tools.definitions import Example, Tool, check_call
from asa.tools.schemas import schema_resolver, without_reference

if TYPE_CHECKING:
    from referencing._core import Resolver
    from referencing.jsonschema import Schema


def with_examples(tools: dict[str, Tool], requests: Iterable[Request]) -> tuple[dict[str, Tool], list[Request]]:
    """Give every tool one example call and one answer in words, from its own examples or else from the requests.

    A request used as an example makes a plain call: it stands itself in the text arguments. All that stand among the
    examples, or resemble one, leave the pool: their answers are in the prompt.

    Returns:
        The tools, and the requests that are left.

    Raises:
        RequestsError: A tool has neither examples nor requests of both labels, or a plain call does not fit its schema,
            or a tool that shares its domain has no example call.
    """
    pool = list(requests)
    filled = {}
    shared = Counter(tool.domain for tool in tools.values())
    for name, tool in tools.items():
        examples = list(tool.examples)
        for label in (1, 0):
            if any((example.arguments is not None) == bool(label) for example in examples):
                continue
            if label and shared[tool.domain] > 1:
                raise RequestsError(
                    f"tool {name!r} shares its domain, whose requests do not say which tool they need: give its tools "
                    "entry an example call."
                )
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
    return filled, without_examples(pool, filled)


def without_examples(requests: list[Request], tools: dict[str, Tool]) -> list[Request]:
    """Those of `requests` that neither stand among the tools' examples nor resemble one, in their order."""
    shown = [example for tool in tools.values() for example in (*tool.examples, *tool.call_examples)]
    return apart_from([example.request for example in shown], requests)


def deal_requests(
    requests: list[Request],
    others: list[Request],
    tools: dict[str, Tool],
    few_shot: bool,
    seed: int,
    shares: Shares = FULL,
) -> tuple[dict[str, Tool], dict[str, list[Request]], int]:
    """Give the tools their examples and deal the rest over the splits.

    Args:
        requests: What is split.
        others: Requests that may help to fit the readers.
        tools: Tools by name.
        few_shot: Whether the prompt shows examples.
        seed: Of the shuffle.
        shares: How many each split takes.

    Returns:
        The tools; `cal`, `train`, `valid`, `test` and `spare`, what no split took and what resembles no request of one;
        and how many of `requests` are left out, since they are among the examples or resemble one. Those are in no
        split, whatever the profile: the study's other prompts show examples too.
    """
    if few_shot:
        tools, left = with_examples(tools, requests)
    else:
        left = without_examples(requests, tools)
    splits = split_requests(left, seed, shares)
    spare = spare_requests(left + without_examples(others, tools), splits) if shares.spare else []
    return tools, splits | {"spare": spare}, len(requests) - len(left)


def plain_arguments(schema: dict, text: str) -> dict:
    """The simplest arguments that fit `schema`'s required properties, `text` for its strings.

    Empty where they would never end, as a required property holds the whole schema again.

    >>> plain_arguments({"properties": {"q": {"type": "string"}, "n": {"type": "integer"}}, "required": ["q"]}, "hi")
    {'q': 'hi'}
    """
    try:
        return _plain_object(schema, text, schema_resolver(schema))
    except RecursionError:
        return {}


def _plain_object(schema: dict, text: str, resolver: "Resolver[Schema]") -> dict:
    schema, resolver = without_reference(schema, resolver)
    properties = schema.get("properties", {})
    return {name: _plain_value(properties.get(name), text, resolver) for name in schema.get("required", [])}


def _plain_value(schema: dict | bool | None, text: str, resolver: "Resolver[Schema]") -> Any:
    schema, resolver = without_reference(schema, resolver)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return _plain_object(schema, text, resolver)
    return {"integer": 1, "number": 1, "boolean": True, "array": [], "null": None}.get(kind, text)
