"""The parser: what it reads, what it refuses, and that no text can stall or break it."""

import json
import random
import time
import warnings
from pathlib import Path

import pytest

from asa.tools.calls import ToolCall, ToolCallError
from asa.tools.parser import parse_tool_calls, spoken

CASES = Path(__file__).parents[2] / "shared" / "lfm2" / "parser_cases.jsonl"
START, END = "<|tool_call_start|>", "<|tool_call_end|>"


def read(body: str, **options) -> list[tuple[str, dict]] | str:
    """Return the calls in one marked block, or "invalid"."""
    try:
        return [(call.name, call.arguments) for call in parse_tool_calls(f"{START}{body}{END}", **options)]
    except ToolCallError:
        return "invalid"


@pytest.mark.skipif(not CASES.exists(), reason="the collected cases are not here")
def test_collected_cases():
    """Cases from the tests of vLLM, SGLang, llama.cpp, ollama and others."""
    for line in CASES.read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        try:
            found = [vars(call) for call in parse_tool_calls(case["text"], case.get("tools"))]
        except ToolCallError:
            found = "invalid"
        assert found == case["expected"], case["source"]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("07", 7),
        ("-1_000", -1000),
        ("+.5e1", 5.0),
        ("true", True),
        ("None", None),
        ("(1)", 1),
        ("(1,)", [1]),
        ("{}", {}),
        ("{'b', 'a'}", ["b", "a"]),
        ("{1: (), None: {True: 2}}", {"1": [], "null": {"true": 2}}),
        (r"'\x41\u00e9\n\q\/'", "Aé\n\\q\\/"),
        (r"'\ud83d\ude00 \U0001F600'", "😀 😀"),
        (r"r'\n' 'b' f'c'", r"\nbc"),
        ('"""a "b" c"""', 'a "b" c'),
        ("'two\nlines\0'", "two\nlines\0"),
        ("[" * 99 + "]" * 99, json.loads("[" * 99 + "]" * 99)),
    ],
)
def test_values(written, value):
    """Python's literals and JSON's, as JSON values."""
    assert read(f"[f(a={written})]") == [("f", {"a": value})]


NO_VALUES = ["", "x", "2+2", "1j", "...", "NaN", "1e999", "-1e999", "--7", "9" * 5000, "b'z'", "f'{x}'"]
NO_VALUES += ["'a' + 'b'", "'a' if x else 'b'", "''.join(['a'])", "g(y=1)", "[x for x in y]", "{1: 2, 3}"]
NO_VALUES += ["{(1,): 2}", "[" * 400 + "]" * 400]


@pytest.mark.parametrize("written", NO_VALUES)
def test_a_bad_value_spoils_its_call_only(written):
    """Nothing is evaluated or guessed, and the sibling survives."""
    assert read(f"[f(a={written})]") == "invalid"
    assert read(f"[f(a={written}), g(b=1)]") == [("g", {"b": 1})]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("'find . -name '*.py''", "find . -name '*.py'"),
        ("'grep 'f' x'", "grep 'f' x"),  # not an f-string
        ("'don't'", "don't"),
        ("'print('a', 'b')'", "print('a', 'b')"),
        ('"print("hi", 1)"', 'print("hi", 1)'),
        ("'x 'y', unit='c'", None),  # two strings, or one
    ],
)
def test_nested_quotes(written, value):
    """A string with its own quote in it is read if one place can end it, and refused if there are two."""
    expected = [("f", {"a": value}), ("g", {"b": "it"})] if value else [("g", {"b": "it"})]
    assert read(f"[f(a={written}), g(b='it')]") == expected


NO_CALLS = ["", "f", "f(1)", "f(1, a=1)", "f(a=1, a=2)", "f(b.c=1)", "f(a=1", "f.(a=1)", "f(a-=1)"]
NO_CALLS += ["f(**{1: 2})", "f(**{'a': 1}, a=2)", "f(**{'a': 1, 'a': 2})", "f(**{'a'})", "f(**a)", "f(*{'a': 1})"]
NO_CALLS += ["[f()", "[f()] thanks", "[f(); g()]", "[,]", "[[f()]]", "f() g()", "(lambda: 1)()", "f-(a=1)", "-f()"]
NO_CALLS += ["f(a='x", '{"name": 1}', '{"name": "a b"}', '{"name": "f", "arguments": [1]}']
NO_CALLS += ['{"name": "f", "arguments": {"a": 1e999}}', '{"name": "f", "arguments": "{\\"a\\": "}']


NO_CALLS += ['{"name": "f", "arguments": {"a": 1', '{"name": "f"', '{"name": "f",', '{"name": "f" "arguments": {}}']
NO_CALLS += ['{"name": "f", "arguments": {"a": ["x" "y"]}}', '{"name": "f", "arguments": {"a": x}}', "{'f': {'a': 1}}"]
NO_CALLS += ["{'name', 'f'}", "{{}}", "{", "}", '{"name": "f", "arguments": []}', '{"name": "f", "arguments": false}']
NO_CALLS += [
    '{"name": "f", "arguments": "{} {}"}',
    '{"name": "f"} thanks',
    '{"name": "f-"}',
    "{'name': 'f', 'a': b'c'}",
]
NO_CALLS += ["```json\n{'name': 'f', 'arguments': {}}\n```", '{"tool": "f", "arguments": {}}', "{'name': 'f', [1]: 2}"]


@pytest.mark.parametrize("body", NO_CALLS)
def test_no_call(body):
    """A block without a valid call is an error, not an answer without calls."""
    assert read(body) == "invalid"


def test_json_and_other_markers():
    """JSON calls: alone, listed, on lines of their own; arguments as an object or as a string."""
    text = """<tool_call>{"name": "f", "arguments": {"a": "1"}}</tool_call> and
        <tool_call>[{"name": "g", "parameters": "{\\"b\\": [2]}"}, {"name": "h"}]</tool_call>
        <tool_call>{"name": "i"}\n{"name": "j"}</tool_call>"""
    calls = parse_tool_calls(text, markers=("<tool_call>", "</tool_call>"))
    assert [call.name for call in calls] == list("fghij")
    assert [call.arguments for call in calls[:3]] == [{"a": "1"}, {"b": [2]}, {}]
    assert parse_tool_calls(text) == []


@pytest.mark.parametrize(
    "body",
    [
        "{'name': 'f', 'arguments': {'a': True, 'b': [None]}}",
        "{'name': 'f', 'arguments': {'a': true, \"b\": [null,],},}",
        '{"name": "f", "arguments": {"a": true, "b": [null]},}',
        '{"name": "f", "arguments": {"a": true, "b": [null]}}}',
        '{"name": "f", "arguments": {"a": true, "b": [null]}}]',
        '{{"name": "f", "arguments": {"a": true, "b": [null]}}}',
        '{"name": "f", "arguments": {"a": true, "b": [null]}',
        '[{"name": "f", "arguments": {"a": true, "b": [null]}]',
        '[{"name": "f", "arguments": {"a": True, "b": [None],}}}, ]',
        '{"name": "f", "parameters": {"a": True, "b": [None]}}',
        """{"name": "f", "arguments": "{'a': True, 'b': [None,]}}"}""",
        '{"name": "f", "arguments": "{\\"a\\": true, \\"b\\": [null]}"}',
        '{"type": "function", "function": {"name": "f", "arguments": {"a": true, "b": [null]}}}',
        '{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": true, \\"b\\": [null]}"}}',
        """{'function': 'f', 'arguments': {'a': True, 'b': [None]}}""",
        "[f(a=True, b=[None])]]",
        "[f(a=True, b=[None]))]",
        "f(a=True, b=[None])]",
        "[f(a=True, b=[None])]}",
        "[f(a=True, b=[None])],",
        '[{"name": "f", "arguments": {"a": true, "b": [null]}}],',
        "[f(**{'a': True, 'b': [None]})]",
        '[f(a=True, **{"b": [null]},)]',
    ],
)
def test_near_misses(body):
    """A Python dict in place of JSON, a comma or bracket too many, the last brace missing: one meaning."""
    assert read(body) == [("f", {"a": True, "b": [None]})]
    assert read(body + "\n") == read(body)
    for echo in (body, body + END, f"\n{body}\n{body}"):  # said again behind the end
        assert parse_tool_calls(f"{START}{body}{END}{echo}") == [ToolCall("f", {"a": True, "b": [None]})]


@pytest.mark.parametrize(
    "body", ["{'name': 'f'}", '{"name": "f", "arguments": null}', '{"name": "f", "arguments": ""}']
)
def test_json_calls_without_arguments(body):
    assert read(body) == [("f", {})]


def test_json_strings_keep_jsons_escapes():
    """Also where the rest is no JSON; what JSON does not know is read as Python does."""
    assert read(r"""{"name": "f", "arguments": {"a": "x\/y\u00e9", 'b': '\x41', "c": "\d", "e": "it's",}}""") == [
        ("f", {"a": "x/yé", "b": "A", "c": "\\d", "e": "it's"})
    ]


def test_siblings_of_near_misses():
    """Each call stands for itself."""
    expected = [("f", {"a": 1}), ("g", {"b": 2})]
    for body in (
        "[f(a=1)), g(b=2)]",
        "{'name': 'f', 'arguments': {'a': 1}}}\n{'name': 'g', 'arguments': {'b': 2}}",
        '[{"name": "f", "arguments": {"a": 1}}}, {"name": "h", "arguments": x}, {"name": "g", "arguments": {"b": 2},}]',
        "{'name': 'f', 'arguments': {'a': 1}}, g(b=2)",
    ):
        assert read(body) == expected


def test_names_with_dashes():
    """JSON knows other names than Python does; an expression is still none."""
    for name in ("get-weather", "a.b-c", "2fa", "7-zip", "a--b"):
        expected = [(name, {"min-price": 3, "x": "y"})]
        assert read(f"[{name}(min-price=3, x='y')]") == expected
        assert read(f"[{name}(**{{'min-price': 3}}, x='y')]") == expected
        assert read(json.dumps({"name": name, "arguments": {"min-price": 3, "x": "y"}})) == expected
    assert read("[f(a='it's', b-c=1), g-h()]") == [("f", {"a": "it's", "b-c": 1}), ("g-h", {})]
    assert read("[f(a='it's', **{'b c': 1})]") == [("f", {"a": "it's", "b c": 1})]
    assert read("[f(a='it's'), g-h()]") == [("f", {"a": "it's"}), ("g-h", {})]
    assert read("[f(a=b-c)]") == read("[f(a=2-1)]") == read("[f(a- b=1)]") == "invalid"
    assert parse_tool_calls("[get-it(a=1)]", ["get-it"]) == [ToolCall("get-it", {"a": 1})]


def test_any_json_call_is_read_as_json_reads_it():
    generator = random.Random(1)
    for _ in range(500):
        arguments = {text(generator): value(generator) for _ in range(3)}
        for ascii_only in (True, False):
            body = json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=ascii_only)
            assert read(body) == [("f", json.loads(json.dumps(arguments)))]
        assert read(repr({"name": "f", "arguments": arguments})) == [("f", json.loads(json.dumps(arguments)))]


def text(generator: random.Random) -> str:
    return "".join(generator.choices("ab '\"\\\n\t{}[],:/é日🚉\x7f", k=generator.randint(0, 8)))


def value(generator: random.Random, depth: int = 0):
    """Return a JSON value with awkward strings."""
    if depth < 3 and generator.random() < 0.4:
        items = [value(generator, depth + 1) for _ in range(3)]
        return generator.choice([items, dict(zip((text(generator), "b", "c"), items, strict=True))])
    return generator.choice([text(generator), generator.randint(-99, 10**20), generator.gauss(0, 1e9), True, None])


CALL = f"{START}[f(a=1)]{END}"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Four.", "Four."),
        ("hm</think>Four.", "Four."),
        ("<think>hm</think>Four.", "\nFour."),
        ("<think>hm", "\n"),
        ("Yes. <think>hm</think>It is <think>or</think>four.<think>", "Yes. \nIt is \nfour.\n"),
        ("hm</think>a<think>b</think>c", "a\nc"),
        ("<think>a<think>b</think>c</think>d", "d"),  # nested
        ("a</think>b</think>c", "c"),  # the last counts
        ("<tool_<think></think>call>", "<tool_\ncall>"),
        ("", ""),
    ],
)
def test_what_is_spoken(answer, said):
    """Thinking is what stands in the tags, the opening one of which may stand in the prompt."""
    assert spoken(answer) == said


def test_rehearsed_calls_are_none():
    """Whether or not the answer holds the opening tag; what is said behind counts."""
    one = [ToolCall("f", {"a": 1})]
    for thought in (CALL, f"{START}[f(a=", f"I could say {START}, but", f"{CALL}{CALL}", f"{START}oops{END}"):
        for opening in ("", "<think>", "<think>\n<think>"):
            assert parse_tool_calls(f"{opening}{thought}</think>Four.") == []
            assert parse_tool_calls(f"{opening}{thought}</think>{CALL}") == one
            assert parse_tool_calls(f"{opening}{thought}</think>{CALL}<think>{CALL}</think>") == one
        assert parse_tool_calls(f"<think>{thought}") == []
    for bare in ("[f(a=1)]</think>Four.", "<think>[f(a=1)]", "[f(a=1)]</think>"):
        assert parse_tool_calls(bare, ["f"]) == []
    assert parse_tool_calls("hm</think>[f(a=1)]", ["f"]) == one


def test_tags_in_an_argument_are_text():
    for text in ("<think>a</think>", "<think>", "a<think>b"):
        assert read(f"[f(a='{text}'), g()]") == [("f", {"a": text}), ("g", {})]


def test_blocks():
    """Where blocks begin and end, and what is no block."""
    one, two = [ToolCall("f", {"a": 1})], [ToolCall("f", {"a": 1}), ToolCall("g", {})]
    assert parse_tool_calls(f"{START}[]{END}") == []
    assert parse_tool_calls(f"a {START}[f(a=1)]{END} b {START}g(){END}") == two
    assert parse_tool_calls(f"{START}[f(a=1)]{START}[g()]") == two  # end markers missing
    assert parse_tool_calls(f"{START}[f(a=1)]<|im_end|>") == one
    assert parse_tool_calls(f"{START}[f(a=1), g(b=") == one  # cut off in the second call
    assert parse_tool_calls(f"{START}[f(a=1)]{END}[f(a=1)]{END}") == one  # an echo
    assert parse_tool_calls(f"{START}oops{END}{START}[f(a=1)]{END}") == one
    assert parse_tool_calls(f"<think>{START}[g()]{END}</think>{START}[f(a=1)]{END}") == one
    assert parse_tool_calls(f"<think>{START}[g()]{END}") == []
    assert parse_tool_calls(f"{START}[f(a=1)]{END}<think>") == one
    with pytest.raises(ToolCallError):
        parse_tool_calls(f"{START}oops{END}{START}[]{END}")


def test_known_tools():
    """Names decide what is valid, and let a bare list at the end count."""
    call, tools = "[calculator(expression='1')]", ["calculator", "web_search"]
    assert read("[calculator(expression='1'), other()]", tools=tools) == [("calculator", {"expression": "1"})]
    assert read("[other()]", tools=tools) == read("[calculator.x()]", tools=tools) == "invalid"
    for bare in (call, f"Sure. {call}\n<|im_end|>", f"{call}{END}", f"Try [calculator(1)] or {call}"):
        assert parse_tool_calls(bare, tools) == [ToolCall("calculator", {"expression": "1"})]
        assert parse_tool_calls(bare) == []
    for prose in (f"{call} is it.", f"<think>{call}</think>", call[1:-1], "[other()]", "[calculator('1')]"):
        assert parse_tool_calls(prose, tools) == []


def check(text: str) -> None:
    """Any text gives a list of calls with JSON arguments, or a ToolCallError, and never hangs."""
    started = time.monotonic()
    try:
        calls = parse_tool_calls(text, tools=["f", "a"])
    except ToolCallError as error:
        assert len(str(error)) < 500
        calls = []
    assert time.monotonic() - started < 15  # a moment if the work is linear, minutes if it is not
    for call in calls:
        assert call.name in ("f", "a")
        assert json.loads(json.dumps(call.arguments, allow_nan=False)) == call.arguments


PIECES = [*"[](){}'\"\\,=:-1e.a \n\0é\ud800", "'''", '"""', "\\'", "f(", "f(a=", "f(a=1), ", "f(a='x' + "]
PIECES += ["f(a='x 'y'), ", "f(a='x' y 'z' w), ", "f(a=\"x \"y), f(a='x 'y), ", "', a='", "'), f(", "9" * 50]
PIECES += ["{'a':1},", '{"name":"f"},', START, END, f"{START}[f(a='", f"{START}[f()]", "[f(a=[", "<think>"]
PIECES += ["</think>", "<|im_end|>", "b'", "f'{", "'\\ud83d", '\\"\'"""']
PIECES += [
    "{'name': 'f', 'arguments': {'a': ",
    '{"name": "f", "arguments": {"a": 1}',
    "{'name': 'f'}}",
    "{{",
    "}}",
    "**",
]
PIECES += [
    "f(**{'a': ",
    "a-",
    "f-a(",
    "a-a=",
    "{'arguments': '{",
    '{"function": ',
    "<think></think>",
    "</think><think>",
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", PIECES, ids=ascii)
@pytest.mark.shows("100,000 characters of one thing are read or refused, without work that grows with their square")
def test_long_repetition(piece, tried):
    """100 kB of one thing, where work that grows with the square of the length would show."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(f"{START}[{piece * (100_000 // len(piece))})]{END}")
        check("[f(a=" + piece * (100_000 // len(piece)) + ")]")
    tried(len(PIECES), "pieces")


@pytest.mark.slow
def test_one_megabyte():
    """A large call is read, a large muddle refused."""
    code = "print('x')\n" * 90_000
    assert read(f"[f(a={json.dumps(code)})]") == [("f", {"a": code})]
    check(f"{START}[" + "f(a='x 'y', b=\"" * 70_000)


@pytest.mark.shows("Any mixture of what matters to the parser is read or refused")
def test_random_texts(tried):
    """Any mixture of what matters to the parser."""
    generator = random.Random(0)
    for _ in range(2000):
        text = "".join(generator.choices(PIECES, k=generator.randint(1, 60)))
        check(text)
        check(START + text)
    tried(4000, "answers")


@pytest.mark.parametrize("text", ["<think>", "</think>", "a <think>b</think> c"])
def test_tags_in_a_calls_argument_are_text(text):
    """Also behind a thought; a call rehearsed in a thought stays one."""
    start, end = "<|tool_call_start|>", "<|tool_call_end|>"
    call = f'{start}[f(x="{text}")]{end}'
    for answer in (call, f"<think>hm</think>{call}", f"Well. {call}Done."):
        assert parse_tool_calls(answer) == [ToolCall("f", {"x": text})]
        assert call in spoken(answer, (start, end))
    assert parse_tool_calls(f"{start}[f(x=1)]{end}</think>No.") == []
    assert parse_tool_calls(f"{start} or not</think>{start}[f(x=1)]{end}") == [ToolCall("f", {"x": 1})]
