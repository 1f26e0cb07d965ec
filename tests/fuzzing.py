"""Fuzzing that is guided by coverage, run by hand: whatever a target raises that is not documented ends it.

    python -m venv .venv-fuzzing && .venv-fuzzing/bin/pip install atheris pytest .
    .venv-fuzzing/bin/python tests/fuzzing.py calls -max_total_time=600

Targets are the keys of `TARGETS`; what follows goes to libFuzzer, such as a folder that keeps what it found. A text
that takes longer than ten seconds ends it too. `test_fuzz.py` tries much the same without coverage, and lends texts.
"""

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
with atheris.instrument_imports(include=["asa", "jsonschema", "referencing"]):
    from test_fuzz import CALLS, RICH, TOOLS, damaged, odd_json

    from asa.adapter import AdapterError, ASAAdapter
    from asa.data.requests import load_requests
    from asa.data.rows import RequestsError
    from asa.tools import ToolCall, ToolsError, call_grammar, check_call, load_tools, parse_tool_calls, tools_from_json
    from asa.tools.calls import ToolCallError

FOLDER = Path(tempfile.mkdtemp(prefix="fuzzing-"))
ADAPTER = ROOT / "outputs" / "asa_assets"
DATA = ROOT / "data"


def calls(content: bytes) -> None:
    """An answer is read, with and without knowing the tools, and its calls are judged."""
    text = content.decode(errors="surrogateescape")
    for markers in (("<|tool_call_start|>", "<|tool_call_end|>"), ("<tool_call>", "</tool_call>")):
        for call in parse_tool_calls(text, TOOLS, markers) + parse_tool_calls(text, markers=markers):
            check_call(call, TOOLS)


def tools(content: bytes) -> None:
    """A tools file is read, and its grammars are written."""
    (FOLDER / "tools.json").write_bytes(content)
    for form in ("pythonic", "json"):
        call_grammar(load_tools(FOLDER / "tools.json"), form, "On 2024-05-06, say hello")


def schemas(content: bytes) -> None:
    """A list of a schema and arguments: these are judged."""
    try:
        schema, arguments = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        return
    made = tools_from_json([{"name": "f", "parameters": schema}], "tools")
    if isinstance(arguments, dict):
        check_call(ToolCall("f", arguments), made)


def requests(content: bytes) -> None:
    """A file of requests is read; its first letter says by which ending."""
    ending = {b"{": "jsonl", b"[": "json", b"t": "csv", b"\t": "tsv"}.get(content[:1], "txt")
    (FOLDER / f"rows.{ending}").write_bytes(content)
    load_requests(FOLDER / f"rows.{ending}")


def config(content: bytes) -> None:
    """An adapter's settings are read, whatever the checksum says."""
    (FOLDER / "config.json").write_bytes(content)
    ASAAdapter.from_pretrained(FOLDER, force=True)


ROWS = (DATA / "requests.jsonl").read_text(encoding="utf-8").splitlines()[:3]
GIVEN, TABLE = {"a": 1, "b": [1.5], "d": "x", "e": "x"}, 'text,label,domain\n"why, oh?",0,math\n'
SCHEMAS = [tool.parameters for tool in TOOLS.values()] + [RICH]
TARGETS = {
    "calls": (calls, ToolCallError, CALLS),
    "tools": (tools, ToolsError, [json.dumps([{"name": "f", "parameters": schema}]) for schema in SCHEMAS]),
    "schemas": (
        schemas,
        ToolsError,
        [json.dumps([schema, {"a": 1, "b": [1.5], "d": "x", "e": "x"}]) for schema in SCHEMAS],
    ),
    "requests": (
        requests,
        RequestsError,
        ["\n".join(ROWS), f"[{','.join(ROWS)}]", 'text,label,domain\n"why, oh?",0,math\n', ROWS[0]],
    ),
    "config": (config, AdapterError, [(ADAPTER / "config.json").read_text(encoding="utf-8")]),
}


def changed(content: bytes, most: int, seed: int) -> bytes:
    """A third by libFuzzer; else as `test_fuzz` damages texts, and JSON in its places."""
    generator = random.Random(seed)
    text = content.decode(errors="replace")
    if generator.random() < 1 / 3:
        return atheris.Mutate(content, most)
    if generator.random() < 0.5:
        try:
            return odd_json([text], generator).encode()[:most]
        except (ValueError, RecursionError):
            pass  # no JSON
    return damaged([text], generator).encode(errors="replace")[:most]


def main(name: str, *options: str) -> None:
    """Fuzz one target until it raises what is not documented."""
    (target, refused, seeds), corpus = TARGETS[name], FOLDER / "seeds"
    corpus.mkdir()
    shutil.copy(ADAPTER / "adapter.safetensors", FOLDER)
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_text(seed, encoding="utf-8")

    def attempt(content: bytes) -> None:
        try:
            target(content)
        except refused as error:
            assert "\n" not in str(error) and 0 < len(str(error)) < 2000, str(error)

    arguments = [sys.argv[0], "-timeout=10", "-max_len=65536", *options, str(corpus)]
    atheris.Setup(arguments, attempt, custom_mutator=changed)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"name what is to be fuzzed: {', '.join(TARGETS)}.")
    main(*sys.argv[1:])
