"""Schemas: the JSON schemas of a tool's arguments, checked once and judged by.

Every schema is read as JSON Schema 2020-12, whatever it says it is, and refers to its own parts alone: what it stands
for is found inside it when it is checked, or it is refused. So reading anyone's tools asks no other machine and opens
no file, and judging a call never fails. Nothing here knows what a tool is.
"""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator, FormatChecker, SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from asa.support.files import UserError, in_short

if TYPE_CHECKING:
    from referencing._core import Resolved, Resolver
    from referencing.jsonschema import Schema

_REFERENCES = ("$ref", "$dynamicRef")
_PATTERNS = FormatChecker(["regex"])  # the other formats would depend on what is installed
_GRAMMAR_ONLY = ("pattern", "format", "minLength", "maxLength")  # keywords that no prompt shows
_NAMED_PARTS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_AS_GIVEN = ("enum", "const", "default", "examples")  # values, in which nothing is a keyword


class UnusableSchema(UserError):
    """A schema cannot be used; the message says which part and what to do."""


def schema_resolver(schema: dict[str, Any]) -> "Resolver[Schema]":
    """Return what finds the parts that `schema` refers to: those of its own, as it has no other place to look in."""
    return Registry().resolver_with_root(DRAFT202012.create_resource(schema))


def without_reference(part: Any, resolver: "Resolver[Schema]") -> tuple[dict[str, Any], "Resolver[Schema]"]:
    """Return part of a checked schema with what its `$ref` stands for in its place, and the resolver for what is in it.

    What stands beside the `$ref` is kept; a part that is true or false says nothing.

    >>> schema = {"$ref": "#/$defs/P", "$defs": {"P": {"type": "object"}}}
    >>> without_reference(schema, schema_resolver(schema))[0]["type"]
    'object'
    """
    part = part if isinstance(part, dict) else {}
    while "$ref" in part:
        found = resolver.lookup(part["$ref"])
        beside = {key: value for key, value in part.items() if key != "$ref"}
        part, resolver = (found.contents if isinstance(found.contents, dict) else {}) | beside, found.resolver
    return part, resolver


def fits_schema(arguments: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Return whether arguments fit a checked schema, which allows no unknown ones unless it says so itself.

    Arguments that cannot be judged do not fit: nested too deeply, or too large a number.
    """
    closed = {"unevaluatedProperties": False, **schema}
    closed.pop("$schema", None)
    try:
        return Draft202012Validator(closed, registry=Registry()).is_valid(arguments)
    except (RecursionError, OverflowError):
        return False


def check_schema(schema: dict[str, Any]) -> None:
    """Refuse what is no schema, or refers to anything but its own parts.

    Raises:
        UnusableSchema: The message names the reference, or the part that is wrong.
    """
    _check_part(schema)
    todo: list[tuple[Any, Resolver[Schema]]] = [(schema, schema_resolver(schema))]
    applied: dict[int, list[int]] = {}  # part -> the parts that judge the same value; by id
    references: dict[int, str] = {}  # part -> a reference to it
    while todo:
        part, resolver = todo.pop()
        if not isinstance(part, dict) or id(part) in applied:
            continue
        if part is not schema and "$schema" in part:
            raise UnusableSchema(f'remove the inner "$schema" {part["$schema"]!r:.99}: only the outermost may stand')
        if "$recursiveRef" in part:
            raise UnusableSchema(
                f'write "$ref" in place of "$recursiveRef" for the reference {part["$recursiveRef"]!r:.99}'
            )
        applied[id(part)] = list(map(id, _judges_of_the_same(part)))
        for reference in (part[key] for key in _REFERENCES if key in part):
            found = _look_up(reference, resolver)
            if id(found.contents) not in references:
                _check_part(found.contents, f"where the reference {reference!r:.99} leads, ")
            references[id(found.contents)] = reference
            applied[id(part)].append(id(found.contents))
            todo.append((found.contents, found.resolver))
        todo += [(inner, _inside(inner, resolver)) for inner in DRAFT202012.subresources_of(part)]
    try:
        TopologicalSorter(applied).prepare()
    except CycleError as error:
        reference = next(references[part] for part in error.args[1] if part in references)
        raise UnusableSchema(
            f"the reference {reference!r:.99} goes round in a circle: let it lead to a type"
        ) from error


def _check_part(part: Any, where: str = "") -> None:
    try:
        Draft202012Validator.check_schema(part, format_checker=_PATTERNS)
    except SchemaError as error:
        raise UnusableSchema(f"{where}correct {in_short(error.json_path)}: {in_short(error.message)}") from error
    except (RecursionError, OverflowError) as error:
        raise UnusableSchema(f"{where}make it simpler: it nests too deeply, or a pattern is too large") from error


def _judges_of_the_same(part: dict[str, Any]) -> Iterator[Any]:
    """The inner schemas that a value is judged by, and not a part of the value."""
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from part.get(keyword, [])
    yield from (part[keyword] for keyword in ("not", "if", "then", "else") if keyword in part)
    yield from part.get("dependentSchemas", {}).values()


def _look_up(reference: str, resolver: "Resolver[Schema]") -> "Resolved[Schema]":
    """Return what a reference stands for, with its resolver."""
    try:
        return resolver.lookup(reference)
    except (Unresolvable, LookupError, ValueError, TypeError) as error:  # the last two: odd pointers and addresses
        raise UnusableSchema(
            f'the reference {reference!r:.99} leads to nothing in the schema itself: put the part under "$defs" and '
            'write "#/$defs/NAME" (nothing is fetched)'
        ) from error


def _inside(inner: Any, resolver: "Resolver[Schema]") -> "Resolver[Schema]":
    """Return the resolver for an inner schema, which may have an address of its own."""
    try:
        return resolver.in_subresource(DRAFT202012.create_resource(inner))
    except ValueError as error:
        raise UnusableSchema(f'correct or remove the "$id" {inner["$id"]!r:.99}: it is no address') from error


def shown_schema(schema: Any) -> Any:
    """A schema as the model sees it: without what only the grammar of a call holds it to.

    >>> shown_schema({"properties": {"day": {"type": "string", "format": "date", "x-copy": True}}})
    {'properties': {'day': {'type': 'string'}}}
    """
    if isinstance(schema, list):
        return [shown_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {}
    for key, part in schema.items():
        if key in _NAMED_PARTS and isinstance(part, dict):  # names of the user's, not keywords
            parts[key] = {name: shown_schema(inner) for name, inner in part.items()}
        elif key in _AS_GIVEN:
            parts[key] = part
        elif key not in _GRAMMAR_ONLY and not key.startswith("x-"):
            parts[key] = shown_schema(part)
    return parts
