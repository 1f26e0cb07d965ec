"""Serving: requests per second and time to the first token, of vLLM alone, with the adapter, and of our own ways.

    python benchmarks/serving.py VENV        writes benchmarks/serving.md; VENV as tests/serving.sh makes it

Requests of `data/held_out.jsonl` under the prompt of the fit get 24 tokens each, whatever they say, so that all do
equal work. Both servers run at the same time and are asked in turn. Whether answers are right is asked elsewhere.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import WAITING, share_cores

share_cores()  # before torch is loaded

import httpx
import torch

from asa import Assistant, load
from asa.data.requests import load_requests
from asa.engine.decoding import Decoder
from asa.engine.engine import Engine
from asa.evaluation.tables import markdown_table
from asa.models.fitting import shared_prefix
from asa.models.profiles import EMBEDDED
from asa.models.wheels import model_from_wheel

ASSETS, TOKENS, ROUNDS = ROOT / "outputs" / "asa_assets", 24, 3
AT_ONCE = {1: 12, 8: 48, 32: 96}  # requests under way -> requests in all
SERVED = ("vLLM alone", "vLLM, steered", "vLLM, adapter loaded, not steered")


@contextmanager
def server(venv: Path, adapter: str, cache_gib: int = 2) -> Iterator[str]:
    """The address of vLLM's server, with or without the adapter."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    model = str(model_from_wheel(EMBEDDED.wheel))
    options = ["--port", str(port), "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager"]
    command = [str(venv / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", model, *options]
    given = {key: value for key, value in os.environ.items() if key not in WAITING}
    given |= {"VLLM_CPU_KVCACHE_SPACE": str(cache_gib), "ASA_ADAPTER": adapter, "VLLM_LOGGING_LEVEL": "WARNING"}
    counters = tempfile.TemporaryDirectory()
    given["PROMETHEUS_MULTIPROC_DIR"] = counters.name  # the decisions are counted in another process than answers
    process = subprocess.Popen(command, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(360):
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the server does not start"
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()
        counters.cleanup()


def asked(url: str, prompts: list[list[int]], at_once: int, extra: dict, tokens: int = TOKENS) -> tuple[float, float]:
    """(requests per second, median seconds to the first token) of streamed completions."""
    firsts: list[float] = []

    async def one(client: httpx.AsyncClient, prompt: list[int], room: asyncio.Semaphore) -> None:
        body = {
            "model": str(model_from_wheel(EMBEDDED.wheel)),
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
        }
        body |= {"ignore_eos": True, "stream": True, "vllm_xargs": extra}
        async with room:
            begun, first = time.perf_counter(), 0.0
            async with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    first = first or (time.perf_counter() if line.startswith("data:") else 0.0)
            firsts.append(first - begun)

    async def everyone() -> None:
        room = asyncio.Semaphore(at_once)
        async with httpx.AsyncClient(timeout=None) as client:
            await asyncio.gather(*(one(client, prompt, room) for prompt in prompts))

    begun = time.perf_counter()
    asyncio.run(everyone())
    return len(prompts) / (time.perf_counter() - begun), statistics.median(firsts)


def one_by_one(assistant: Assistant, prompts: list[list[int]]) -> tuple[float, float]:
    """(requests per second, median seconds to the first token) of `generate` under `adapter.steer`."""

    def seconds(prompt: list[int], count: int) -> float:
        row, begun = torch.tensor([prompt]), time.perf_counter()
        given = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
        with assistant.adapter.steer(assistant.model):
            assistant.model.generate(row, attention_mask=torch.ones_like(row), **given)
        return time.perf_counter() - begun

    whole = sum(seconds(prompt, TOKENS) for prompt in prompts)
    return len(prompts) / whole, statistics.median(seconds(prompt, 1) for prompt in prompts)


def side_by_side(assistant: Assistant, prompts: list[list[int]]) -> float:
    """Requests per second of our batched engine, with the adapter; it answers when all are done."""
    begun = time.perf_counter()
    engine = Engine(assistant.model, shared_prefix(prompts))
    decoder = Decoder[int](engine, TOKENS, lambda said: False)
    for batch in engine.batches(prompts, ""):
        delta, _ = assistant.adapter.push(batch.last_token().states[:, assistant.adapter.layer])
        decoder.add(batch.begin(batch.rows), (assistant.adapter.layer, delta))
    assert all(len(said) == TOKENS for said in decoder.finish().values())
    return len(prompts) / (time.perf_counter() - begun)


def main(venv: Path) -> None:
    """Write the page."""
    assistant = load(ASSETS)
    texts = [request.text for request in load_requests(ROOT / "data" / "held_out.jsonl")]
    prompts = [assistant.prompter.ids(text) for text in texts][: max(AT_ONCE.values())]
    found: dict[tuple[str, int], list] = {}
    with server(venv, "") as alone, server(venv, str(ASSETS)) as steered:
        places = zip(SERVED, (alone, steered, steered), ({}, {}, {"asa": 0}), strict=True)
        ways = {name: (url, extra) for name, url, extra in places}
        for round_ in range(ROUNDS + 1):  # the first warms up
            for at_once, count in AT_ONCE.items():
                for name, (url, extra) in ways.items():
                    result = asked(url, prompts[:count], at_once, extra)
                    if round_:
                        found.setdefault((name, at_once), []).append(result)
    found["adapter.steer, one by one", 1] = [one_by_one(assistant, prompts[: AT_ONCE[1]]) for _ in range(ROUNDS)]
    for at_once in AT_ONCE:
        runs = [side_by_side(assistant, prompts[:at_once]) for _ in range(ROUNDS + 1)][1:]
        found["our batched engine", at_once] = [(speed, float("nan")) for speed in runs]
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        cells = []
        for at_once in AT_ONCE:
            speed, first = map(statistics.median, zip(*found.get((name, at_once), [(0.0, 0.0)]), strict=True))
            cells.append("" if not speed else f"{speed:.2f}" + (f" / {1000 * first:.0f} ms" if first == first else ""))
        rows.append([name, *cells])
    costs = [
        [at_once, *(f"{100 * (paired(found, SERVED[0], name, at_once) - 1):+.1f} %" for name in SERVED[1:])]
        for at_once in AT_ONCE
    ]
    text = [
        "# Serving",
        f"`python benchmarks/serving.py` wrote this: medians of {ROUNDS} rounds, {os.cpu_count()} cores, vLLM on a "
        f"CPU, SmolLM2 in fp32, {TOKENS} tokens an answer, eager. Requests per second / median time to the first "
        "token; what prompts have in common is in vLLM's caches, and computed anew by our own ways.",
        markdown_table(["way", *(f"{at_once} at once" for at_once in AT_ONCE)], rows),
        "What the adapter costs within vLLM: how much longer the same requests take than with vLLM alone, round by "
        "round (median). Aimed at: 3 %.",
        markdown_table(["at once", "steered", "loaded, not steered"], costs),
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def paired(found: dict, alone: str, name: str, at_once: int) -> float:
    """How many times as long as alone: the median over rounds."""
    pairs = zip(found[alone, at_once], found[name, at_once], strict=True)
    return statistics.median(one[0] / other[0] for one, other in pairs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
