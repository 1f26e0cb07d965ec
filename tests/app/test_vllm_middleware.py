"""The middleware before vLLM's server, around a server that only notes what it gets."""

import asyncio
import json
from pathlib import Path

import pytest

from asa.app import vllm_middleware
from asa.app.vllm_middleware import FittedRequests
from asa.models.profiles import EMBEDDED
from asa.models.prompts import Prompter
from asa.tools.definitions import load_tools

HTTPException = pytest.importorskip("starlette.exceptions").HTTPException
OTHER = [{"type": "function", "function": {"name": "thermometer", "description": "Measures", "parameters": {}}}]
CHATS = "/v1/chat/completions"


@pytest.fixture
def prompter(tiny_tokenizer, monkeypatch) -> Prompter:
    prompter = Prompter(tiny_tokenizer, EMBEDDED, load_tools(Path(__file__).parents[2] / "data" / "tools.json"))
    monkeypatch.setattr(vllm_middleware, "prompter_of_process", lambda: prompter)
    monkeypatch.setenv("ASA_STRICT", "1")
    return prompter


def body_of(tools: list) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "What is 2 + 2?"}], "tools": tools}).encode()


def answered(path: str, *parts: bytes, root: str = "", reads: bool = True) -> tuple[list[bytes], list[dict]]:
    """Send a body in parts: what the server read, and what the client got."""
    got: list[bytes] = []
    sent: list[dict] = []
    coming = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    coming.append({"type": "http.request", "body": b"", "more_body": False})

    async def server(scope, receive, send):
        while reads:
            message = await receive()
            got.append(message["body"])
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200 if reads else 401, "headers": []})

    async def receive():
        return coming.pop(0) if coming else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-length", str(sum(map(len, parts))).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "root_path": root, "headers": headers}
    asyncio.run(FittedRequests(server)(scope, receive, send))
    return got, sent


@pytest.mark.parametrize("root", ["", "/asa"])
def test_a_chat_is_changed_and_the_answer_says_what_was_done(prompter, root):
    """Also behind a proxy that adds to the path."""
    whole = body_of([{"type": "function", "function": tool.schema()} for tool in prompter.tools.values()])
    (body,), (start,) = answered(root + CHATS, whole[:50], whole[50:], root=root)
    assert json.loads(body)["vllm_xargs"] == {"asa": 1}
    assert start["headers"] == [(b"x-asa", b"steered")]


def test_what_is_refused_is_refused_as_the_server_refuses(prompter):
    """By an exception that it turns into status 400."""
    with pytest.raises(HTTPException) as refused:
        answered(CHATS, body_of(OTHER))
    assert refused.value.status_code == 400
    assert refused.value.detail.startswith("the adapter was fitted to other tools")


def test_nothing_is_read_for_who_may_not_ask(prompter, monkeypatch):
    """A server that refuses without reading costs nothing."""
    monkeypatch.setattr(FittedRequests, "_changed", lambda *_: pytest.fail("the body was looked at"))
    _, (start,) = answered(CHATS, body_of(OTHER), reads=False)
    assert start["status"] == 401


@pytest.mark.parametrize("body", [b"{no json", b"[" * 200_000])
def test_what_is_no_json_is_left_to_the_server(prompter, body):
    (got,), (start,) = answered(CHATS, body)
    assert got == body and start["headers"] == [(b"x-asa", b"unsteered: no JSON")]


def test_other_paths_pass_as_they_come(prompter):
    got, (start,) = answered("/v1/completions", b'{"prompt":', b" 1}")
    assert b"".join(got) == b'{"prompt": 1}' and start["headers"] == []


def test_a_client_that_is_gone_is_left(prompter):
    async def server(scope, receive, send):
        assert await receive() == {"type": "http.disconnect"}

    async def gone():
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "path": CHATS, "headers": []}
    asyncio.run(FittedRequests(server)(scope, gone, None))
