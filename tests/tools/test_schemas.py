"""Schemas: what refers to its own parts is read and judged by, anything else is refused, and nobody is asked."""

import builtins
import io
import socket
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from referencing.exceptions import Unresolvable

from asa.tools.schemas import UnusableSchema, check_schema, fits_schema, schema_resolver, without_reference


def of(**properties) -> dict:
    return {"type": "object", "properties": properties}


INTEGER = {"type": "integer"}
TREE = of(value=INTEGER, child={"$ref": "#"})
REFERRING = {
    "definition": of(a={"$ref": "#/$defs/P"}) | {"$defs": {"P": INTEGER}},
    "older keyword": of(a={"$ref": "#/definitions/P"}) | {"definitions": {"P": INTEGER}},
    "any place": of(a={"$ref": "#/x-shared/0"}) | {"x-shared": [INTEGER]},
    "escapes": of(a={"$ref": "#/$defs/a~1b~0c%20%25"}) | {"$defs": {"a/b~c %": INTEGER}},
    "anchor": of(a={"$ref": "#p"}) | {"$defs": {"P": INTEGER | {"$anchor": "p"}}},
    "dynamic": of(a={"$dynamicRef": "#p"}) | {"$defs": {"P": INTEGER | {"$dynamicAnchor": "p"}}},
    "own address": of(a={"$ref": "t.json#/$defs/P"}) | {"$id": "https://x.invalid/t.json", "$defs": {"P": INTEGER}},
    "bundle": of(a={"$ref": "p.json"})
    | {"$id": "https://x.invalid/t.json", "$defs": {"P": INTEGER | {"$id": "p.json"}}},
    "chain": of(a={"$ref": "#/$defs/P"}) | {"$defs": {"P": {"$ref": "#/$defs/Q"}, "Q": INTEGER}},
    "root": {"$ref": "#/$defs/T", "$defs": {"T": of(a=INTEGER)}},
    "root in a list": {"type": "object", "allOf": [{"$ref": "#/$defs/T"}], "$defs": {"T": of(a=INTEGER)}},
    "another dialect": of(a={"$ref": "#/$defs/P"}) | {"$schema": "https://x.invalid/meta", "$defs": {"P": INTEGER}},
    "draft 7": of(a=INTEGER) | {"$schema": "http://json-schema.org/draft-07/schema#"},
}


@pytest.mark.parametrize("schema", REFERRING.values(), ids=REFERRING)
def test_a_schema_may_refer_to_its_own_parts(schema):
    """Its references count, and what it does not name is unknown."""
    check_schema(schema)
    assert fits_schema({"a": 1}, schema)
    assert not fits_schema({"a": "1"}, schema) and not fits_schema({"a": 1, "b": 1}, schema)


def test_data_and_names_are_no_references():
    data = {"$ref": "https://x.invalid/"}
    check_schema(of(**{"$ref": {"enum": [data, 1], "default": data, "examples": [data]}, "$schema": {"const": data}}))
    assert fits_schema({"$ref": 1}, of(**{"$ref": INTEGER}))


@pytest.mark.parametrize(
    "more", [{}, {"$schema": "http://json-schema.org/draft-07/schema#"}, {"$id": "https://x.invalid/"}]
)
def test_a_tree_ends_where_its_values_do(more):
    """All of it is judged by the same rules, whatever dialect its root names."""
    tree, deep = TREE | more, {"value": 1}
    check_schema(tree)
    for _ in range(90):
        deep = {"child": deep}
    assert fits_schema(deep, tree)
    assert not fits_schema({"child": {"child": {"value": "1"}}}, tree)
    assert not fits_schema({"child": {"child": {"other": 1}}}, tree)


def test_what_cannot_be_judged_does_not_fit():
    """A model's call never ends a run."""
    deep = {}
    for _ in range(100_000):
        deep = {"child": deep}
    assert not fits_schema(deep, TREE)
    assert not fits_schema({"a": 10**400}, of(a={"multipleOf": 0.5}))


OUTSIDE = ["https://x.invalid/s.json", "//x.invalid/s", "file:///etc/passwd", "/etc/passwd", "other.json", "#/$defs/X"]
OUTSIDE += [
    "#anchor",
    "#/properties/a/maxLength/0",
    "#/allOf/x",
    "https://json-schema.org/draft/2020-12/schema",
    "http://[",
]


@pytest.mark.parametrize("reference", OUTSIDE)
@pytest.mark.parametrize("place", ["properties", "nested", "unused", "dynamic", "address", "condition", "target"])
def test_a_reference_to_anything_else_is_named(reference, place):
    part = {"$dynamicRef" if place == "dynamic" else "$ref": reference}
    schema = of(a={"maxLength": 3}, b=part) | {"allOf": [True]}
    if place == "nested":
        schema["properties"]["b"] = {"anyOf": [{"items": {"prefixItems": [{"not": part}]}}]}
    elif place == "unused":
        schema["properties"]["b"] = {}
        schema["definitions"] = {"Q": {"additionalProperties": part}}
    elif place == "address":
        schema["$id"] = "https://y.invalid/t.json"
    elif place == "condition":
        schema |= {"if": True, "then": {"dependentSchemas": {"a": part}}}
    elif place == "target":
        schema["properties"]["b"] = {"$ref": "#/x-shared"}
        schema["x-shared"] = part
    with pytest.raises(UnusableSchema) as caught:
        check_schema(schema)
    assert repr(reference) in str(caught.value) and "nothing is fetched" in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        of(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
        of() | {"$defs": {"A": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]}}},
        *(of() | {keyword: [True, {"$ref": "#"}]} for keyword in ("allOf", "anyOf", "oneOf")),
        *(of() | {keyword: {"$ref": "#"}} for keyword in ("not", "if", "then", "else")),
        of() | {"dependentSchemas": {"a": {"$ref": "#"}}},
        of() | {"$defs": {"A": {"$dynamicAnchor": "a", "$dynamicRef": "#a"}}},
    ],
)
def test_a_circle_is_refused(schema):
    with pytest.raises(UnusableSchema, match=r"the reference '#.*' goes round in a circle"):
        check_schema(schema)


def nested(depth: int) -> dict:
    schema = of()
    for _ in range(depth):
        schema = of(a=schema)
    return schema


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (of(a={"type": "text"}), "properties.a.type: 'text'"),
        (of(a={"pattern": "("}), "properties.a.pattern: '\\(' is not a 'regex'"),
        (of() | {"patternProperties": {"[": True}}, "patternProperties"),
        (of(a={"pattern": "a{99999999999}"}), "simpler"),
        (nested(2000), "simpler"),
        (of(a={"$ref": 5}), "5"),
        (of(a={"$ref": "#/x"}) | {"x": {"type": "text"}}, "'#/x' leads, correct .*'text'"),
        (of(a={"$ref": "#/x"}) | {"x": "text"}, "'#/x' leads, correct .*'text'"),
        (of(a={"$ref": "#/x"}) | {"x": {"pattern": "("}}, "'#/x' leads, correct .*regex"),
        (of(a={"$schema": "https://x.invalid/m"}), "inner .*'https://x.invalid/m'"),
        (of(a={"$recursiveRef": "#"}), "recursiveRef.*'#'"),
        (of(a={"$id": "http://["}) | {"$id": "https://x.invalid/t.json"}, "id.*'http://\\['"),
    ],
)
def test_what_is_no_schema_is_named(schema, words):
    with pytest.raises(UnusableSchema, match=words) as caught:
        check_schema(schema)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        of(**{"a\nb": {"type": "text"}}),
        of(a={"type": ["text"] * 999}),
        of(**{"a" * 9999: {"type": "text"}}),
        of(a={"$ref": "#/" + "a" * 9999}),
        of(a=INTEGER | {"$schema": "a" * 9999}),
        of(a={"$id": "http://[" + "a" * 9999}) | {"$id": "https://x.invalid/t.json"},
    ],
)
def test_what_is_wrong_is_said_on_one_short_line(schema):
    with pytest.raises(UnusableSchema) as error:
        check_schema(schema)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_what_a_reference_stands_for():
    schema = {"$ref": "#/$defs/P", "$defs": {"P": {"$ref": "#/$defs/Q", "title": "P"}, "Q": INTEGER | {"title": "Q"}}}
    part, _ = without_reference(schema, schema_resolver(schema))
    assert (part["type"], part["title"]) == ("integer", "P")
    assert without_reference(True, None) == ({}, None)


class Counter(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self):
        Counter.asked += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"type": "integer"}')

    def log_message(self, *_arguments):
        pass


@pytest.mark.shows("Schemas that refer to other machines or to files ask nobody and open nothing")
def test_nobody_is_asked_and_nothing_opened(tmp_path, monkeypatch):
    """Neither to check a schema nor to judge a call, though there are a server that would answer, and the file."""
    server = HTTPServer(("127.0.0.1", 0), Counter)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "s.json").write_text('{"type": "integer"}', encoding="utf-8")
    address = f"http://127.0.0.1:{server.server_port}/s.json"
    assert urllib.request.urlopen(address).status == 200 and Counter.asked == 1

    tried = []

    def refuse(*arguments, **_more):
        tried.append(arguments)
        raise OSError("asked or opened")

    for module, name in ((socket, "create_connection"), (urllib.request, "urlopen"), (builtins, "open"), (io, "open")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    try:
        for reference in (address, (tmp_path / "s.json").as_uri(), str(tmp_path / "s.json")):
            for schema in (
                of(a={"$ref": reference}),
                of(a={"$dynamicRef": reference}),
                of(a={"$recursiveRef": reference}),
                of(a={"$schema": reference}),
                of(a={"$ref": "s.json"}) | {"$id": reference.replace("s.json", "t.json")},
            ):
                with pytest.raises(UnusableSchema):
                    check_schema(schema)
            with pytest.raises(Unresolvable):  # nor where nobody has checked it
                fits_schema({"a": 1}, of(a={"$ref": reference}))
            labelled = of(a=INTEGER) | {"$schema": reference, "$vocabulary": {reference: True}}
            check_schema(labelled)
            assert fits_schema({"a": 1}, labelled)
    finally:
        monkeypatch.undo()
        server.shutdown()
    assert Counter.asked == 1 and tried == []
