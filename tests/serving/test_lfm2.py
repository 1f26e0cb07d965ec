"""A random LFM2 on vLLM, its convolutions and its attention, against `generate` under `adapter.steer`.

Run by `tests/serving.sh`, in a process of its own: a process has one adapter.
"""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("vllm")
if "ASA_REFERENCES" not in os.environ:
    pytest.skip("tests/serving.sh runs these", allow_module_level=True)

FOUND = json.loads(Path(os.environ["ASA_REFERENCES"]).read_text("utf-8"))["lfm2"]
ROWS = FOUND["rows"]
os.environ |= {"ASA_ADAPTER": FOUND["adapter"], "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1"  # a core for each of two processes; the first is a single one's

from vllm import LLM, SamplingParams


def started(**more) -> LLM:
    return LLM(
        FOUND["model"], skip_tokenizer_init=True, enforce_eager=True, dtype="float32", max_model_len=256,
        max_num_seqs=8, max_num_batched_tokens=128, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def llm() -> LLM:
    return started()


def said(llm: LLM, prompts: list[list[int]], extra: list[dict | None]) -> list[list[int]]:
    given = [
        SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, detokenize=False, extra_args=e) for e in extra
    ]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], given, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_it_says_what_transformers_says(llm):
    """Alone and side by side; vLLM 0.32 rotates LFM2's heads wrongly on a CPU, which the plugin mends."""
    expected = [row["plain"]["ids"] for row in ROWS]
    assert [said(llm, [row["prompt"]], [{"asa": 0}])[0] for row in ROWS] == expected
    assert said(llm, [row["prompt"] for row in ROWS], [{"asa": 0}] * len(ROWS)) == expected


def test_it_is_steered_as_by_transformers(llm, lines):
    """More prompts than there is room for, in chunks, every other one unsteered."""
    answers = said(llm, [row["prompt"] for row in ROWS for _ in range(2)], [None, {"asa": 0}] * len(ROWS))
    assert answers[0::2] == [row["asa"]["ids"] for row in ROWS]
    assert answers[1::2] == [row["plain"]["ids"] for row in ROWS]
    decided = sorted((decision.domain, decision.gate) for _, decision in lines.decisions)
    assert decided == sorted((row["asa"]["decision"]["domain"], row["asa"]["decision"]["gate"]) for row in ROWS)
    assert any(row["asa"]["ids"] != row["plain"]["ids"] for row in ROWS)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a core for each of two processes is needed")
def test_it_is_steered_in_two_processes_that_share_its_layers():
    """Each decides by the whole state, and so alike."""
    llm = started(tensor_parallel_size=2, distributed_executor_backend="mp")
    answers = said(llm, [row["prompt"] for row in ROWS for _ in range(2)], [None, {"asa": 0}] * len(ROWS))
    assert answers[0::2] == [row["asa"]["ids"] for row in ROWS]
    assert answers[1::2] == [row["plain"]["ids"] for row in ROWS]
