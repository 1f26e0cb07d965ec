"""Overload: vLLM with the adapter, asked for twice what it can do; nothing may be lost, and nothing steered unasked.

    python benchmarks/overload.py VENV [SECONDS]     writes benchmarks/overload.md; VENV as tests/serving.sh makes it

Requests of `data/held_out.jsonl` come at a steady pace, every other one unsteered, whether or not earlier ones are
answered; then the queue is let run dry. Each answer is set against the same request's in a quiet minute before.
"""

import asyncio
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from asa.support.environment import share_cores

share_cores()  # before torch is loaded

import httpx
from serving import ASSETS, asked, server

from asa import load
from asa.data.requests import load_requests
from asa.evaluation.tables import markdown_table
from asa.models.profiles import EMBEDDED
from asa.models.wheels import model_from_wheel

SECONDS, TOKENS, COUNT = 300, 4, 48
Key = tuple[int, int]  # a prompt's number, and whether it is steered


def megabytes(marker: str) -> int:
    """Resident memory of the server and of what it has started."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            if marker.encode() in environment:
                pages += int((process / "statm").read_text().split()[1])
        except OSError:
            continue  # it is gone, or not ours
    return pages * 4096 >> 20


async def said(client: httpx.AsyncClient, url: str, prompt: list[int], steered: int) -> str:
    """An answer's text."""
    body = {"model": str(model_from_wheel(EMBEDDED.wheel)), "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    answer = await client.post(f"{url}/v1/completions", json=body | {"vllm_xargs": {"asa": steered}})
    answer.raise_for_status()
    return answer.json()["choices"][0]["text"]


async def loaded(url: str, prompts: list[list[int]], pace: float, seconds: float, marker: str) -> dict:
    """What became of the requests of `seconds`, `pace` a second."""
    expected: dict[Key, str] = {}
    found = {"asked": 0, "lost": 0, "other answers": 0, "other first words": 0}
    memory = []
    async with httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None)) as client:
        for number, prompt in enumerate(prompts):
            for steered in (0, 1):
                expected[number, steered] = await said(client, url, prompt, steered)
        parted = sum(expected[number, 0] != expected[number, 1] for number in range(len(prompts)))

        async def one(key: Key) -> None:
            try:
                answer = await said(client, url, prompts[key[0]], key[1])
            except httpx.HTTPError:
                found["lost"] += 1
                return
            found["other answers"] += answer != expected[key]
            found["other first words"] += answer.split()[:1] != expected[key].split()[:1]

        memory.append(megabytes(marker))
        begun, under_way = time.perf_counter(), []
        while (passed := time.perf_counter() - begun) < seconds:
            while found["asked"] < passed * pace:
                key = (found["asked"] // 2 % len(prompts), found["asked"] % 2)
                under_way.append(asyncio.create_task(one(key)))
                found["asked"] += 1
            if len(memory) == 1 and passed > seconds / 2:
                memory.append(megabytes(marker))
            await asyncio.sleep(0.02)
        memory.append(megabytes(marker))
        waiting = sum(not task.done() for task in under_way)
        await asyncio.gather(*under_way)
    memory.append(megabytes(marker))
    drained = time.perf_counter() - begun
    return found | {"waiting at the end": waiting, "seconds": drained, "memory": memory, "parted": parted}


def main(venv: Path, seconds: float) -> None:
    """Write the page."""
    assistant = load(ASSETS)
    texts = [request.text for request in load_requests(ROOT / "data" / "held_out.jsonl")]
    prompts = [assistant.prompter.ids(text) for text in texts][:COUNT]
    with server(venv, str(ASSETS)) as url:
        capacity = max(asked(url, prompts * 2, 32, {}, TOKENS)[0] for _ in range(3))
        found = asyncio.run(loaded(url, prompts, 2 * capacity, seconds, f"ASA_ADAPTER={ASSETS}"))
    memory = [f"{size} MB" for size in found["memory"]]
    text = [
        "# Twice what it can do",
        f"`python benchmarks/overload.py` wrote this: vLLM with the adapter, SmolLM2 in fp32 on a CPU, {TOKENS} tokens "
        f"an answer. It answers {capacity:.1f} requests per second when 32 are under way, and was asked for twice that "
        f"for {seconds:.0f} s, every other request unsteered; {found['waiting at the end']} waited then, and all were "
        f"answered {found['seconds']:.0f} s after the first was asked.",
        markdown_table(
            ["asked", "lost", "another answer than alone", "another first word than alone"],
            [[found["asked"], found["lost"], found["other answers"], found["other first words"]]],
        ),
        f"Steered and unsteered answers differ in {found['parted']} of the {COUNT} requests, so that an answer of the "
        "other kind would show there.",
        markdown_table(["memory at the beginning", "half-way", "at the end", "queue empty"], [memory]),
    ]
    Path(__file__).with_suffix(".md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS)
