"""Fuzzing: texts and files that were damaged at random never raise what is not documented, and nothing is executed.

Seeded, so that a failure comes back. `ASA_FUZZ_BYTES` says how much is tried of each; 10 million were tried by hand.
"""

import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from reliability import FUZZ_BYTES
from steered import decides_by

from asa import ASAAdapter
from asa.adapter.decision import AdapterError
from asa.data.requests import load_requests
from asa.data.rows import RequestsError
from asa.tools import ToolsError, check_call, load_tools, parse_tool_calls, tools_from_json
from asa.tools.calls import ToolCallError
from asa.tools.grammar import call_grammar

ROOT = Path(__file__).parents[1]
TOOLS = load_tools(ROOT / "data" / "tools.json")
PIECES = [
    "<|tool_call_start|>", "<|tool_call_end|>", "<tool_call>", "</tool_call>", "[", "]", "(", ")", "{", "}", "'", '"',
    "\\", "=", ",", ":", "calculator", "expression", '{"name": "', '"arguments"', "1e999", "-0", "nan", "null", "True",
    "\x00", "\u202e", "\u200b", "\ud83d\ude00", "<think>", "\n", "__import__('os').abort()", '"$ref"', '"pattern"',
    "(a+)+$",
    '"enum"', '"anyOf"', '"x-copy"', "9" * 400,
]  # fmt: skip


def damaged(seeds: list[str], generator: random.Random) -> str:
    """One of the seeds with pieces cut out, doubled and put in."""
    text = generator.choice(seeds)
    for _ in range(generator.randint(1, 6)):
        first = generator.randint(0, len(text))
        end = min(len(text), first + generator.randint(0, 12))
        put = generator.choice([generator.choice(PIECES), text[first:end] * 2, "", chr(generator.randint(0, 0xD7FF))])
        text = text[:first] + put + text[end:]
    return text


def odd(value: object, generator: random.Random) -> object:
    """A JSON value in which one place holds what does not belong there, or nothing."""
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        places = list(value) if isinstance(value, dict) else list(range(len(value)))
        place, copied = generator.choice(places), value.copy()
        if generator.random() < 0.1:
            del copied[place]
        else:
            copied[place] = odd(value[place], generator)
        return copied
    return generator.choice(
        [None, True, -1, 0.5, 1e308, 10**400, "", "x", "\u202e", [], [[]], {}, {"type": "x"}, [None], PIECES]
    )


def odd_json(seeds: list[str], generator: random.Random) -> str:
    """One of the seeds, JSON texts, with a few odd places."""
    value = json.loads(generator.choice(seeds))
    for _ in range(generator.randint(1, 4)):
        value = odd(value, generator)
    return json.dumps(value)


def fuzz(target: Callable[[str], object], seeds: list[str], allowed: type[Exception], made: Callable = damaged) -> int:
    """Try `target` until the bytes are used up; how many texts that were."""
    generator, left, count = random.Random(0), FUZZ_BYTES, 0
    while left > 0:
        text = made(seeds, generator)
        left, count = left - len(text.encode(errors="replace")), count + 1
        try:
            target(text)
        except allowed as error:
            assert "\n" not in str(error) and 0 < len(str(error)) < 2000, str(error)
    return count


CALLS = [
    "<|tool_call_start|>[calculator(expression='2 * (3 + 4)')]<|tool_call_end|>",
    '<tool_call>[translator(text="a \\"b\\"", target_language="French"), web_search(query="x")]</tool_call>',
    '[{"name": "web_search", "arguments": {"query": "x", "n": [1, 2.5, null, true]}}]',
    "<think>hm [calculator(expression='1')]</think>Well, [python_interpreter(code='print(1)\\nprint(2)')]",
]


RICH = {
    "type": "object", "required": ["a"], "properties": {
        "a": {"type": "integer", "minimum": 1}, "b": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/c"}]},
        "d": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 9}, "e": {"enum": [1, "x"]}},
    "$defs": {"c": {"type": "array", "items": {"type": "number"}, "maxItems": 3}},
}  # fmt: skip


@pytest.mark.shows("Calls that were damaged at random are read or refused by the documented error")
def test_calls(tried):
    def read(text: str) -> None:
        for call in parse_tool_calls(text):
            check_call(call, TOOLS)

    tried(fuzz(read, CALLS, ToolCallError), "answers")


@pytest.mark.shows("Tools files that were damaged at random are refused in a sentence, also by the grammar")
def test_tools_files(tried):
    def read(text: str) -> None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return
        call_grammar(tools_from_json(value, "tools"), "pythonic")

    whole = json.loads((ROOT / "data" / "tools.json").read_text(encoding="utf-8"))
    seeds = [json.dumps([tool]) for tool in whole] + [
        json.dumps([{"name": "f", "description": "", "parameters": RICH}])
    ]
    tried(fuzz(read, seeds, ToolsError) + fuzz(read, seeds, ToolsError, odd_json), "files")


@pytest.mark.shows("Requests files that were damaged at random are refused in a sentence")
def test_requests_files(tmp_path, tried):
    lines = (ROOT / "data" / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    seeds = ["\n".join(lines[first : first + 3]) for first in range(0, 30, 3)]
    seeds.append('text,label,domain\nadd 1 and 2,1,math\n"why, oh why?",0,math\n')

    def read(text: str) -> None:
        path = tmp_path / ("rows.csv" if text.startswith("text,") else "rows.jsonl")
        path.write_text(text, encoding="utf-8", errors="replace")
        load_requests(path)

    tried(fuzz(read, seeds, RequestsError), "files")


@pytest.mark.shows("Adapter configs that were damaged at random are refused in a sentence, or the adapter is as it was")
def test_adapter_configs(adapter, tmp_path, tried):
    adapter.save(tmp_path)
    path = tmp_path / "config.json"
    whole = path.read_text(encoding="utf-8")

    def load(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="replace")
        with contextlib.suppress(AdapterError):
            ASAAdapter.from_pretrained(tmp_path, force=True)
        found = ASAAdapter.from_pretrained(tmp_path)
        if '"sha256"' in text:  # without a checksum it passes for one of an earlier version
            assert decides_by(found) == decides_by(adapter)

    tried(fuzz(load, [whole], AdapterError) + fuzz(load, [whole], AdapterError, odd_json), "configs")
