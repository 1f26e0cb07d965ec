"""Memory of a server over many requests: vLLM alone, and with the adapter.

    python benchmarks/server_memory.py VENV [REQUESTS]     writes server_memory.md; VENV as tests/serving.sh makes it

Both servers run at the same time and are asked the same, `AT_ONCE` requests under way at each. The first share of the
requests fills most of vLLM's cache of keys and values, and is not counted.
"""

import asyncio
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import psutil
from overload import AT_ONCE, answer, decided, memory
from serving import ASSETS, ROOT, TOKENS, server  # it puts the package on the path and shares the cores

from asa import load
from asa.data.requests import load_requests
from asa.evaluation.tables import markdown_table

SHARES = 12
SERVERS = {"vLLM alone": "", "vLLM with the adapter": str(ASSETS)}


async def ask(url: str, prompts: list[list[int]]) -> None:
    """All prompts, `AT_ONCE` under way; each must be answered."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(client: httpx.AsyncClient, prompt: list[int]) -> None:
        async with room:
            assert len(await answer(client, url, prompt, 1, Counter())) == TOKENS

    async with httpx.AsyncClient(timeout=None) as client:
        await asyncio.gather(*(one(client, prompt) for prompt in prompts))


async def ask_all(urls: list[str], prompts: list[list[int]]) -> None:
    """Both servers at once."""
    await asyncio.gather(*(ask(url, prompts) for url in urls))


def slope(asked: list[int], sizes: list[float]) -> str:
    """Growth in KiB per request."""
    return f"{np.polyfit(asked, np.array(sizes) * 1024, 1)[0]:.0f}"


def main(venv: Path, requests: int) -> None:
    """Write the page."""
    prompter = load(ASSETS).prompter
    prompts = [prompter.ids(request.text) for request in load_requests(ROOT / "data" / "held_out.jsonl")]
    share = requests // SHARES
    with ExitStack() as servers:
        urls, processes = [], []
        for adapter in SERVERS.values():
            before = psutil.Process().children()
            urls.append(servers.enter_context(server(venv, adapter, cache_gib=1)))
            processes += [child for child in psutil.Process().children() if child not in before][:1]
        sizes: list[list[float]] = [[], []]
        for number in range(SHARES + 1):
            asyncio.run(ask_all(urls, [prompts[(number * share + place) % len(prompts)] for place in range(share)]))
            for found, process in zip(sizes, processes, strict=True):
                found.append(memory(process))
            print(f"{share * (number + 1)} requests: {sizes[0][-1]:.0f} and {sizes[1][-1]:.0f} MiB", flush=True)
        steered = decided(urls[1])
    assert steered >= requests, f"only {steered} requests were steered."
    counted = [share * number for number in range(SHARES + 1)]
    names = list(SERVERS)
    rows = [[str(count), *(f"{found[place]:.0f}" for found in sizes)] for place, count in enumerate(counted)]
    text = [
        "# Memory of a server",
        f"`python benchmarks/server_memory.py` wrote this: vLLM on a CPU, SmolLM2 in fp32, {TOKENS} tokens an answer, "
        f"{AT_ONCE} requests under way at each of two servers that run side by side. {share} requests before the first "
        "line fill most of the cache of keys and values, 1 GiB.",
        markdown_table(["requests", *(f"{name}, MiB" for name in names)], rows),
        "Growth per request, by least squares, in this one run: "
        + "; ".join(f"{name} {slope(counted, found)} KiB" for name, found in zip(names, sizes, strict=True))
        + ".",
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1200)
