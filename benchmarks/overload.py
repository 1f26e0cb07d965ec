"""A served adapter at twice its capacity: is anything lost, steered by mistake, or kept in memory?

    python benchmarks/overload.py VENV [SECONDS]     writes benchmarks/overload.md; VENV as tests/serving.sh makes it

Requests come at a fixed rate, twice what the server manages, whether or not earlier ones are answered, each prompt in
turn to be steered and not. Each answer is compared with the quiet server's, and the decisions with what was asked.
"""

import asyncio
import itertools
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from serving import ASSETS, ROOT, asked, server  # it puts the package on the path and shares the cores

from asa import load
from asa.data.requests import load_requests
from asa.evaluation.tables import markdown_table
from asa.models.profiles import EMBEDDED
from asa.models.wheels import model_from_wheel

TOKENS, AT_ONCE, EVERY, PROMPTS = 24, 32, 10, 120
RETRIES = 2  # as OpenAI's client does


def memory(process: psutil.Process) -> float:
    """MiB that a server's processes hold; `process` is the first of them."""
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True))) / 2**20


def decided(url: str) -> int:
    """How many requests the adapter has decided on."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("asa_decisions_total{")))


async def answer(
    client: httpx.AsyncClient, url: str, prompt: list[int], steered: int, again: Counter
) -> tuple[int, ...]:
    """The tokens of one answer; empty where there is none. Broken connections are taken up `RETRIES` times."""
    body = {"model": str(model_from_wheel(EMBEDDED.wheel)), "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    body |= {"ignore_eos": True, "return_token_ids": True, "vllm_xargs": {"asa": steered}}
    for _ in range(1 + RETRIES):
        try:
            reply = (await client.post(f"{url}/v1/completions", json=body)).raise_for_status()
            return tuple(reply.json()["choices"][0]["token_ids"])
        except httpx.TransportError as error:  # such as a connection that the server closed as it was used again
            again[type(error).__name__] += 1
        except httpx.HTTPStatusError:
            break
    return ()


async def at_rate(
    url: str, asks: list[tuple[list[int], int]], rate: float, seconds: float, again: Counter
) -> tuple[list[tuple[int, tuple[int, ...]]], list[tuple[float, float, int]], float]:
    """Ask in turn, `rate` a second.

    Returns:
        What was asked, by number, and its answer; (seconds, MiB, requests under way) at intervals; the seconds in all.
    """
    tasks: list[asyncio.Task] = []
    readings: list[tuple[float, float, int]] = []
    (served,) = psutil.Process().children()
    begun = time.perf_counter()

    async def one(client: httpx.AsyncClient, number: int) -> tuple[int, tuple[int, ...]]:
        return number, await answer(client, url, *asks[number], again)

    async def watch() -> None:
        for reading in itertools.count():
            open_ones = sum(not task.done() for task in tasks)
            readings.append((time.perf_counter() - begun, memory(served), open_ones))
            await asyncio.sleep(max(0.0, begun + EVERY * (reading + 1) - time.perf_counter()))

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=None, limits=limits) as client:
        watching = asyncio.create_task(watch())
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            tasks.append(asyncio.create_task(one(client, number % len(asks))))
        answers = await asyncio.gather(*tasks)
        watching.cancel()
    readings.append((time.perf_counter() - begun, memory(served), 0))
    return answers, readings, time.perf_counter() - begun


def quiet(url: str, asks: list[tuple[list[int], int]]) -> list[tuple[int, ...]]:
    """The same requests, one after the other."""

    async def everyone() -> list[tuple[int, ...]]:
        async with httpx.AsyncClient(timeout=None) as client:
            return [await answer(client, url, *ask, Counter()) for ask in asks]

    return asyncio.run(everyone())


def main(venv: Path, seconds: float) -> None:
    """Write the page."""
    assistant = load(ASSETS)
    texts = [request.text for request in load_requests(ROOT / "data" / "held_out.jsonl")]
    asks = [(assistant.prompter.ids(text), steered) for text in texts[:PROMPTS] for steered in (0, 1)]
    with server(venv, str(ASSETS), cache_gib=1) as url:
        prompts = [prompt for prompt, _ in asks[: 3 * AT_ONCE]]
        capacity = statistics.median(asked(url, prompts, AT_ONCE, {}, TOKENS)[0] for _ in range(3))
        expected, before = quiet(url, asks), decided(url)
        again: Counter = Counter()
        answers, readings, took = asyncio.run(at_rate(url, asks, 2 * capacity, seconds, again))
        decisions = decided(url) - before
    changed = sum(plain != pushed for plain, pushed in zip(expected[::2], expected[1::2], strict=True))
    said = Counter((number, tokens) for number, tokens in answers)
    lost = sum(count for (_, tokens), count in said.items() if len(tokens) != TOKENS)
    wanted = sum(asks[number][1] for number, _ in answers)
    other_first = sum(n for (row, tokens), n in said.items() if tokens[:1] != expected[row][:1])
    other = sum(n for (row, tokens), n in said.items() if tokens != expected[row])
    steps = [reading for reading in readings if reading[0] <= took]
    shown = [min(steps, key=lambda r: abs(r[0] - part * took)) for part in (0, 0.1, 0.25, 0.5, 0.75, 1)]
    text = [
        "# A served adapter at twice its capacity",
        f"`python benchmarks/overload.py` wrote this: vLLM on a CPU, {os.cpu_count()} cores, SmolLM2 in fp32, "
        f"{TOKENS} tokens an answer. With {AT_ONCE} requests under way the server manages {capacity:.1f} a second. For "
        f"{seconds:.0f} s it was asked {2 * capacity:.1f} a second, each prompt in turn to be steered and not, and "
        f"after {took:.0f} s all {len(answers)} were answered. Steering changes the quiet server's answer to {changed} "
        f"of the {PROMPTS} prompts.",
        markdown_table(
            ["", "requests"],
            [
                ["asked", len(answers)],
                ["connections that broke, asked again", again.total()],
                ["without a whole answer", lost],
                ["to be steered", wanted],
                ["decided on by the adapter, again where vLLM computed a request anew", decisions],
                ["first token other than on the quiet server", other_first],
                ["any token other than on the quiet server", other],
            ],
        ),
        "Memory of the server's processes. vLLM's cache of keys and values, 1 GiB, becomes part of it as it is filled "
        "for the first time, with or without an adapter.",
        markdown_table(
            ["after", "MiB", "requests under way"], [[f"{at:.0f} s", f"{size:.0f}", open_] for at, size, open_ in shown]
        ),
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 600.0)
