"""The middleware before vLLM's own server: it puts chat requests as the adapter was fitted (`vllm_requests`).

What was done is said in the header `x-asa`. Everything but chats passes unchanged.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from transformers import AutoTokenizer

from asa.app.fitted import fitted_prompter, fitted_with
from asa.app.vllm_process import VARIABLE, adapter_of_process
from asa.app.vllm_requests import STRICT, Putter
from asa.models.prompts import Prompter, PromptError
from asa.support.files import UserError

MODEL = "ASA_MODEL"
PATH, HEADER = "/v1/chat/completions", b"x-asa"
Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]
App = Callable[[dict, Receive, Send], Awaitable[None]]


class FittedRequests:
    """The middleware, as vLLM takes it: `--middleware asa.app.vllm_middleware.FittedRequests`."""

    def __init__(self, app: App):
        self.app, self.put = app, Putter(prompter_of_process(), os.environ.get(STRICT, "").strip() == "1")
        self._worker = ThreadPoolExecutor(1)  # one after the other, beside the server's loop

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        """Pass a request on, a chat's changed as soon as vLLM reads it: who may ask is settled before."""
        path = str(scope.get("path", "")).removeprefix(scope.get("root_path") or "")
        if scope["type"] != "http" or (scope["method"], path) != ("POST", PATH):
            return await self.app(scope, receive, send)
        said, waiting = "unsteered: not read", True

        async def given() -> dict:
            nonlocal said, waiting
            if not waiting:
                return await receive()  # nothing but that the client is gone
            waiting, more = False, True
            parts: list[bytes] = []
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return message
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
            running = asyncio.get_running_loop()
            changed, said = await running.run_in_executor(self._worker, self._changed, b"".join(parts))
            return {"type": "http.request", "body": changed, "more_body": False}

        async def told(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], (HEADER, said.encode("ascii"))]}
            await send(message)

        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]  # of another body
        await self.app(scope | {"headers": headers}, given, told)

    def _changed(self, body: bytes) -> tuple[bytes, str]:
        """A body as vLLM is to get it, and what was done.

        Raises:
            HTTPException: The request is refused, with status 400.
        """
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return body, "unsteered: no JSON"  # vLLM says so
        try:
            changed, said = self.put(asked)
        except UserError as error:
            from starlette.exceptions import HTTPException  # comes with vLLM

            raise HTTPException(400, str(error)) from error
        return json.dumps(changed).encode(), said


def prompter_of_process() -> Prompter:
    """The prompts of the adapter that `ASA_ADAPTER` names, for the model that `ASA_MODEL` names.

    Raises:
        AdapterError: There is no such adapter.
        PromptError: The model's prompts are not those of the fit, or they open a thought.
    """
    profile, tools, expected = fitted_with(adapter_of_process(), f"{os.environ[VARIABLE]}/config.json")
    model = os.environ.get(MODEL) or profile.model_id
    tokenizer = AutoTokenizer.from_pretrained(model, revision=profile.revision if model == profile.model_id else "main")
    tokenizer.chat_template = profile.chat_template or tokenizer.chat_template
    prompter = fitted_prompter(tokenizer, profile, tools, expected)
    if prompter.opened:
        raise PromptError(f"{profile.model_id} thinks first, which is not served: ask it with asa.load.")
    return prompter
