"""Values: what a model may write for a value of a JSON schema, in a notation.

A keyword that limits values and cannot be said here is refused, never dropped; what JSON Schema does not know, and
what says nothing about a value, is passed over, but for `x-copy`: such a string is a span of the request's words.
Strings have at most 400 characters and lists 16 items where the schema sets no bound, and 10,000 of either where it
sets a larger one.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator

from asa.languages.numbers import bounds, integers, numbers, whole
from asa.languages.trees import EMPTY, Language, Lexeme, Members, Text, choice, optional, repeat, sequence
from asa.tools.schemas import without_reference
from asa.tools.strings import Notation, UnsayableSchema, quoted, string

LONGEST_LIST = 16
ANY_ORDER = 5  # so many members may stand in any order: a grammar has 2**n rules for them
DEEPEST = 8  # schemas within schemas
KINDS = ("string", "number", "boolean", "null", "array", "object")
NOT_SAID = {"allOf", "oneOf", "not", "if", "then", "else", "$dynamicRef"}  # of any value
NOT_SAID_OF = {
    "integer": {"multipleOf"},
    "number": {"multipleOf"},
    "array": {"prefixItems", "contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems"},
    "object": {
        "patternProperties", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties",
        "dependentRequired", "dependentSchemas", "dependencies",
    },
}  # fmt: skip
COMMA, COLON = (Lexeme(sequence(Text(mark), optional(Text(" ")))) for mark in ",:")


def value(schema: Any, resolver: Any, notation: Notation, depth: int = 0) -> Language:
    """Return what may be written for a value of a checked schema.

    Args:
        schema: A part of a tool's schema.
        resolver: Finds what it refers to (`schemas.schema_resolver`).
        notation: How to write it.
        depth: How many schemas it stands in.

    Raises:
        UnsayableSchema: The schema holds what a grammar cannot say.
        RoomError: It has too many parts.
    """
    notation.room.take()
    if depth > DEEPEST:
        raise UnsayableSchema("$ref to what it stands in")
    if schema is False:
        raise UnsayableSchema("false")
    part, resolver = without_reference(schema, resolver)
    if refused := NOT_SAID & part.keys():
        raise UnsayableSchema(min(refused))
    if "enum" in part or "const" in part:
        return _fixed(part, resolver, notation)
    if "anyOf" in part:
        return choice(_any_of(part, resolver, notation, depth))
    kinds = part.get("type", KINDS)
    kinds = {kinds} if isinstance(kinds, str) else set(kinds)
    if {"integer", "number"} <= kinds:
        kinds -= {"integer"}
    return choice(_kind(kind, part, resolver, notation, depth) for kind in sorted(kinds))


def _any_of(part: dict[str, Any], resolver: Any, notation: Notation, depth: int) -> Iterator[Language]:
    """Values of each option, which holds together with what stands beside all."""
    beside = {key: given for key, given in part.items() if key != "anyOf"}
    for option in part["anyOf"]:
        inner, where = without_reference(option, resolver)
        for key in inner.keys() & beside.keys() - {"title", "description", "default", "examples"}:
            if inner[key] != beside[key]:
                raise UnsayableSchema(f"anyOf beside {key}")
        yield value(beside | inner, where, notation, depth + 1)


def _kind(kind: str, part: dict[str, Any], resolver: Any, notation: Notation, depth: int) -> Language:
    """Values of one type."""
    if refused := NOT_SAID_OF.get(kind, set()) & part.keys():
        raise UnsayableSchema(min(refused))
    match kind:
        case "string":
            return string(part, notation)
        case "integer":
            return Lexeme(integers(*whole(*bounds(part))))
        case "number":
            return Lexeme(numbers(*bounds(part)))
        case "boolean":
            return Lexeme(choice(Text(text) for given in (True, False) for text in notation.constants[given]))
        case "null":
            return Lexeme(choice(map(Text, notation.constants[None])))
        case "array":
            return _array(part, resolver, notation, depth)
    return object_language(part, resolver, notation, depth)


def _fixed(part: dict[str, Any], resolver: Any, notation: Notation) -> Language:
    """One of the values that a schema names, if it fits the rest of the schema."""
    given = part.get("enum", [part.get("const")])
    if "anyOf" in part:
        raise UnsayableSchema("anyOf beside enum")
    limits = {key: part[key] for key in part if key not in ("properties", "items", "additionalProperties", "$defs")}
    fitting = [one for one in given if Draft202012Validator(limits).is_valid(one)]
    if not fitting:
        raise UnsayableSchema("enum without a value that fits")
    return Lexeme(choice(way for one in fitting for way in _written(one, notation)))


def _written(given: Any, notation: Notation) -> list[Language]:
    """The ways to write one value."""
    if isinstance(given, str):
        return list(map(Text, quoted(given, notation)))
    if given is None or isinstance(given, bool):
        return list(map(Text, notation.constants[given]))
    return [Text(json.dumps(given, ensure_ascii=False))]


def _array(part: dict[str, Any], resolver: Any, notation: Notation, depth: int) -> Language:
    low = part.get("minItems", 0)
    high = part.get("maxItems", max(low, LONGEST_LIST))
    if high < low or (low and part.get("items") is False):
        raise UnsayableSchema("minItems above what there may be")
    if high == 0 or part.get("items") is False:
        return Text("[]")
    item = value(part.get("items", _inner(depth)), resolver, notation, depth + 1)
    full = sequence(Text("["), item, repeat(sequence(COMMA, item), max(low - 1, 0), high - 1), Text("]"))
    return full if low else choice([Text("[]"), full])


def _inner(depth: int) -> dict[str, Any]:
    """The schema of a part about which nothing is said: two levels of lists and objects, then plain values only."""
    return {} if depth < 2 else {"type": ["string", "number", "boolean", "null"]}


def members(
    part: dict[str, Any], resolver: Any, notation: Notation, depth: int, write: Callable[[str, Language], Language]
) -> tuple[tuple[Language, bool], ...]:
    """The members that an object's schema names, as `write` writes name and value, and whether each must be there.

    Raises:
        UnsayableSchema: As in `value`.
    """
    named, required = part.get("properties", {}), set(part.get("required", []))
    if refused := NOT_SAID_OF["object"] & part.keys():
        raise UnsayableSchema(min(refused))
    if missing := required - named.keys():
        raise UnsayableSchema(f"required ({min(missing)}, which is no property)")
    return tuple(
        (write(key, value(inner, resolver, notation, depth + 1)), key in required)
        for key, inner in named.items()
        if inner is not False or key in required
    )


def object_language(part: dict[str, Any], resolver: Any, notation: Notation, depth: int) -> Language:
    """Objects of a schema: the members that it names, in any order if they are few, and others if it wants them.

    Others are those of `additionalProperties`, behind the named ones; where a schema names none at all, any.
    """
    named = part.get("properties", {})
    more = part.get("additionalProperties", not named)
    known = members(part, resolver, notation, depth, lambda key, inner: sequence(key_of(key, notation), COLON, inner))
    if more is False:
        return sequence(Text("{"), listed(known), Text("}"))
    taken = tuple(way for key in named for way in quoted(key, notation))
    name = string({}, replace(notation, forbidden=notation.forbidden + taken))
    free = sequence(name, COLON, value(_inner(depth) if more is True else more, resolver, notation, depth + 1))
    behind = repeat(sequence(COMMA, free), 0, LONGEST_LIST - 1)
    ways = [sequence(listed(known), behind)] if known else []
    if not any(needed for _, needed in known):
        ways += [sequence(free, behind), EMPTY]
    return sequence(Text("{"), choice(ways), Text("}"))


def listed(members: tuple[tuple[Language, bool], ...]) -> Language:
    """Members with commas between them."""
    return Members(members, COMMA, any_order=len(members) <= ANY_ORDER) if members else EMPTY


def key_of(key: str, notation: Notation) -> Language:
    """A member's name."""
    return Lexeme(choice(_written(key, notation)))
