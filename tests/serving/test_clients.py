"""Real clients of `asa serve`: each calls a tool, hands its result back, and gets an answer in words.

Run by `tests/serving.sh`, in an environment with vLLM and the clients; without Node.js its client is skipped.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("vllm")
if "ASA_REFERENCES" not in os.environ:
    pytest.skip("tests/serving.sh runs these", allow_module_level=True)

import gradio
import gradio_client
import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

FOUND = json.loads(Path(os.environ["ASA_REFERENCES"]).read_text("utf-8"))
CONFIG = json.loads(Path(FOUND["adapter"], "config.json").read_text("utf-8"))
MODEL = CONFIG["model_id"]
TOOLS = [
    {"type": "function", "function": {key: tool[key] for key in ("name", "description", "parameters")}}
    for tool in CONFIG["tools"]
]
TRANSLATE, JOKE = "Translate 'good morning' into French.", "Tell me a joke about cats."
CALL = ("translator", {"text": "good morning", "target_language": "French"})
HEALTHY = 180  # seconds


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    """The address of a server, which must not have failed at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    options = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    command = [str(Path(sys.executable).with_name("asa")), "serve", "--adapter", FOUND["adapter"], *options]
    with log.open("w") as said:
        given = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
        server = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=given, cwd=log.parent)
    try:
        begun = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None and time.monotonic() - begun < HEALTHY, log.read_text()[-3000:]
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
        assert server.poll() is None and "Traceback" not in log.read_text(), log.read_text()[-3000:]
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def client(url) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def asked(text: str | list, **more) -> dict:
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    return {"model": MODEL, "messages": messages, "tools": TOOLS, "temperature": 0, "max_tokens": 60} | more


def called(message) -> tuple[str, dict]:
    (call,) = message.tool_calls
    assert call.id and call.type == "function"
    return call.function.name, json.loads(call.function.arguments)


def test_a_call_its_result_and_words(client):
    """OpenAI's own client, as its documentation has it."""
    raw = client.chat.completions.with_raw_response.create(**asked(TRANSLATE))
    (choice,) = raw.parse().choices
    assert raw.headers["x-asa"] == "steered" and choice.finish_reason == "tool_calls"
    assert called(choice.message) == CALL and not choice.message.content
    result = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "bonjour"}
    turns = [{"role": "user", "content": TRANSLATE}, choice.message.model_dump(exclude_none=True), result]
    (answer,) = client.chat.completions.create(**asked(turns)).choices
    assert answer.message.content and not answer.message.tool_calls and answer.finish_reason != "tool_calls"
    (words,) = client.chat.completions.create(**asked(JOKE)).choices
    assert words.message.content and not words.message.tool_calls


def test_streamed_it_is_the_same(client):
    whole = client.chat.completions.create(**asked(JOKE)).choices[0].message.content
    pieces = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked(JOKE), stream=True)]
    assert "".join(piece.content or "" for piece in pieces) == whole
    assert sum(bool(piece.content) for piece in pieces) > 10
    with client.chat.completions.stream(**asked(TRANSLATE)) as stream:
        assert not any(event.type == "content.delta" and event.delta for event in stream)
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls" and called(choice.message) == CALL


def test_many_at_once(url):
    """Asynchronously; every answer is the one that its request gets alone."""

    async def all_of(texts: list[str]) -> list:
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            answers = await asyncio.gather(*(client.chat.completions.create(**asked(text)) for text in texts))
        return [answer.choices[0].message for answer in answers]

    *calls, words = asyncio.run(all_of([*[TRANSLATE] * 7, JOKE]))
    assert [called(message) for message in calls] == [CALL] * 7
    assert words.content and not words.tool_calls


@pytest.mark.parametrize(
    ("choice", "name"),
    [("required", None), ({"type": "function", "function": {"name": "web_search"}}, "web_search"), ("none", None)],
)
def test_tool_choice(client, choice, name):
    """A call where one is asked for, by any tool or that one, and none where none is wanted."""
    (answer,) = client.chat.completions.create(**asked(JOKE, tool_choice=choice, max_tokens=200)).choices
    if choice == "none":
        assert answer.message.content and not answer.message.tool_calls
    else:
        found, arguments = called(answer.message)
        known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
        assert found == (name or found) and set(arguments) <= set(known[found]["properties"])


def test_what_a_request_may_ask_for(client):
    """The model alone, another gate, one call at most; and what cannot be is refused before it reaches the engine."""
    for more, said in (({"asa": 0}, "unsteered: the request says so"), ({"asa_tau": 0.9}, "steered")):
        raw = client.chat.completions.with_raw_response.create(**asked(TRANSLATE, extra_body={"vllm_xargs": more}))
        assert raw.headers["x-asa"] == said
    (choice,) = client.chat.completions.create(**asked(TRANSLATE, parallel_tool_calls=False)).choices
    assert called(choice.message) == CALL
    for odd, said in (({"asa_tau": "high"}, "asa_tau is 'high'"), ({"asa_dose": -1}, "asa_dose is '-1'")):
        with pytest.raises(openai.BadRequestError, match=said):
            client.chat.completions.create(**asked(JOKE, extra_body={"vllm_xargs": odd}))
    other = [{"type": "function", "function": {"name": "thermometer", "parameters": {"type": "object"}}}]
    raw = client.chat.completions.with_raw_response.create(**asked(JOKE) | {"tools": other})
    assert raw.headers["x-asa"] == "unsteered: the tools are not the adapter's"


def test_decisions_are_counted(url, client):
    """By domain and gate, at /metrics, beside vLLM's own counters."""

    def counted() -> dict[str, float]:
        text = urllib.request.urlopen(url.replace("/v1", "/metrics"), timeout=10).read().decode()
        return {
            labels: float(count) for labels, count in re.findall(r"^asa_decisions_total\{(.*)\} (\S+)$", text, re.M)
        }

    key = 'domain="translation",gate="1"'
    client.chat.completions.create(**asked(TRANSLATE))
    before = counted()[key]
    client.chat.completions.create(**asked(TRANSLATE))
    client.chat.completions.create(**asked(TRANSLATE, extra_body={"vllm_xargs": {"asa": 0}}))
    assert counted()[key] == before + 1


def test_langchain(url):
    model = ChatOpenAI(model=MODEL, base_url=url, api_key="none", temperature=0, max_tokens=60).bind_tools(TOOLS)
    asking = HumanMessage(TRANSLATE)
    answer = model.invoke([asking])
    (call,) = answer.tool_calls
    assert (call["name"], call["args"]) == CALL and call["id"]
    last = model.invoke([asking, answer, ToolMessage("bonjour", tool_call_id=call["id"])])
    assert last.content and not last.tool_calls
    chunks = list(model.stream([HumanMessage(JOKE)]))
    assert len(chunks) > 10 and not any(chunk.tool_calls for chunk in chunks)


def test_a_chat_in_the_browser(url, monkeypatch):
    """The one of docs/serving.md: a call with its result and words, then words that follow on them."""
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text("utf-8")
    code = text.partition("## A chat in the browser")[2].partition("```python\n")[2].partition("```")[0]
    code = code.replace("http://localhost:8000/v1", url).replace("outputs/asa_assets", FOUND["adapter"])
    asked, opened = [], []
    monkeypatch.setattr(gradio.ChatInterface, "launch", lambda self: opened.append(self))
    names: dict = {}
    exec(code, names)
    known = names["functions"]["translator"]
    names["functions"]["translator"] = lambda **given: asked.append(given) or known(**given)
    (chat,) = opened
    gradio.Blocks.launch(chat, prevent_thread_lock=True, quiet=True)
    try:
        user = gradio_client.Client(chat.local_url, verbose=False)
        job = user.submit(TRANSLATE, api_name="/answer")
        last = job.result(timeout=120)
        assert asked == [CALL[1]] and last and last not in job.outputs()[:1]
        assert CALL[0] in job.outputs()[0]
        assert user.predict(JOKE, api_name="/answer") and len(asked) == 1
    finally:
        chat.close()


@pytest.mark.skipif(not shutil.which("npm"), reason="Node.js is not installed")
def test_the_ai_package(url, tmp_path):
    """Vercel's, with the provider for servers like this one: it runs the tool itself and asks again."""
    shutil.copy(Path(__file__).with_name("client.mjs"), tmp_path)
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS), encoding="utf-8")
    wanted = ["ai@6", "@ai-sdk/openai-compatible@2", "zod@4"]
    subprocess.run(["npm", "install", "--silent", *wanted], cwd=tmp_path, check=True, timeout=300)
    command = ["node", "client.mjs", url, MODEL, "tools.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ran"] == [list(CALL)]
    assert found["steps"][0] == ["tool-calls", ["translator"], ""]
    reason, calls, text = found["steps"][1]
    assert reason != "tool-calls" and not calls and text
    assert found["words"][1] == 0 and found["words"][2] == found["streamed"] != ""
