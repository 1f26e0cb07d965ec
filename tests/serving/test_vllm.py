"""vLLM with the plugin, against `generate` under `adapter.steer` on the same weights.

Run by `tests/serving.sh` in an environment that has vLLM and, of this project, only what an adapter needs. The engine
has little room: prompts come in chunks, and requests are thrown out and computed again.
"""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("vllm")
if "ASA_REFERENCES" not in os.environ:
    pytest.skip("tests/serving.sh runs these", allow_module_level=True)

FOUND = json.loads(Path(os.environ["ASA_REFERENCES"]).read_text("utf-8"))
ROWS, LATER = FOUND["rows"], FOUND["later"]
BLOCK, CHUNK, BLOCKS = 32, 96, 44  # tokens of a cache block and of a step; blocks in all
os.environ |= {"ASA_ADAPTER": FOUND["adapter"], "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}

from logged_decisions import Lines
from vllm import LLM, SamplingParams


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(
        FOUND["model"], enforce_eager=True, dtype="float32", max_model_len=1024, block_size=BLOCK, max_num_seqs=12,
        max_num_batched_tokens=CHUNK, num_gpu_blocks_override=BLOCKS, enable_prefix_caching=True,
        disable_log_stats=False,
    )  # fmt: skip


def asked(llm: LLM, prompts: list[list[int]], extra: list[dict | None], count: int = 8, **more) -> list:
    given = [SamplingParams(**({"temperature": 0, "max_tokens": count, "extra_args": e} | more)) for e in extra]
    return llm.generate([{"prompt_token_ids": ids} for ids in prompts], given, use_tqdm=False)


def said(outputs: list) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def preemptions(llm: LLM) -> int:
    return sum(metric.value for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions")


def test_one_request_is_steered_as_by_transformers(llm, lines):
    """Its prompt is longer than a step; the decision is the same."""
    row = ROWS[0]
    assert len(row["prompt"]) > 2 * CHUNK
    (answer,) = said(asked(llm, [row["prompt"]], [None], 40))
    assert answer == row["asa"]["ids"]
    ((_, decision),) = lines.decisions
    expected = row["asa"]["decision"]
    assert (decision.domain, decision.gate, decision.layer) == tuple(expected[n] for n in ("domain", "gate", "layer"))
    assert decision.p_tool == pytest.approx(expected["p_tool"], abs=1e-3)


def test_many_at_once_steered_and_not(llm, lines):
    """Of equal prompts, every other one leaves the adapter out; one decision for each that does not."""
    prompts = [row["prompt"] for row in ROWS for _ in range(2)]
    answers = said(asked(llm, prompts, [None, {"asa": 0}] * len(ROWS)))
    assert answers[0::2] == [row["asa"]["ids"][:8] for row in ROWS]
    assert answers[1::2] == [row["plain"]["ids"][:8] for row in ROWS]
    assert sorted(decision.p_tool for _, decision in lines.decisions) == pytest.approx(
        sorted(row["asa"]["decision"]["p_tool"] for row in ROWS), abs=1e-3
    )
    assert any(row["asa"]["ids"][0] != row["plain"]["ids"][0] for row in ROWS)


def test_a_request_that_is_thrown_out_is_steered_again_at_the_same_token(llm, lines):
    """Nowhere else: what it had said already is computed again unsteered."""
    before = preemptions(llm)
    answers = said(asked(llm, [row["prompt"] for row in ROWS], [None] * len(ROWS), 40))
    assert preemptions(llm) > before
    assert answers == [row["asa"]["ids"] for row in ROWS]
    assert len(lines.decisions) >= len(ROWS)


def continued(llm: LLM, lines: Lines) -> tuple[list[list[int]], float, list[int]]:
    """A conversation that goes on, unsteered and steered: answers, the second decision, tokens from the cache."""
    llm.reset_prefix_cache()
    asked(llm, [ROWS[0]["prompt"]], [None], 40)
    lines.decisions.clear()
    outputs = asked(llm, [LATER["prompt"]], [{"asa": 0}]) + asked(llm, [LATER["prompt"]], [None])
    ((_, decision),) = lines.decisions
    return said(outputs), decision.p_tool, [output.num_cached_tokens for output in outputs]


def test_what_stands_behind_a_steered_token_is_not_taken_over(llm, lines):
    """The next turn reads the conversation as if it had never been steered, as under `steer`; what precedes it is
    taken from the cache."""
    answers, p_tool, cached = continued(llm, lines)
    assert answers == [LATER["plain"]["ids"], LATER["asa"]["ids"]]
    assert p_tool == pytest.approx(LATER["asa"]["decision"]["p_tool"], abs=1e-4)
    steered_at = len(ROWS[0]["prompt"]) - 1
    assert cached[0] == steered_at // BLOCK * BLOCK > 0


def test_it_would_be_taken_over_without_keys_of_its_own(llm, lines, monkeypatch):
    """The check above can fail: with vLLM's own keys, blocks behind the steered token are reused."""
    import asa.app.vllm_patches as patches

    monkeypatch.setattr(patches, "request_is_steered", lambda request: False)
    _, _, cached = continued(llm, lines)
    assert cached[0] > len(ROWS[0]["prompt"])
    llm.reset_prefix_cache()


def test_another_gate_and_dose_per_request(llm, lines):
    """A dose of 0 changes nothing, a tau that nothing reaches pushes nothing."""
    row = next(row for row in ROWS if row["asa"]["ids"][0] != row["plain"]["ids"][0])
    answers = said(asked(llm, [row["prompt"]] * 2, [{"asa_dose": 0}, {"asa_tau": 0.999999999}]))
    assert answers == [row["plain"]["ids"][:8]] * 2
    assert [decision.gate for _, decision in lines.decisions].count(0) == 1


def test_samples_of_one_request_are_all_steered(llm):
    (output,) = asked(llm, [ROWS[0]["prompt"]], [None], n=3, temperature=0.01, seed=0, logprobs=1)
    assert {tuple(one.token_ids[:4]) for one in output.outputs} == {tuple(ROWS[0]["asa"]["ids"][:4])}
    assert all(len(one.logprobs) == 8 for one in output.outputs)


def test_a_request_that_is_given_up_in_mid_prefill_leaves_nothing(llm, lines):
    """It is never decided on, and those that come next are answered as ever."""
    llm.reset_prefix_cache()
    engine = llm.llm_engine
    engine.add_request("given up", {"prompt_token_ids": ROWS[0]["prompt"]}, SamplingParams(max_tokens=8))
    engine.step()
    assert len(ROWS[0]["prompt"]) > CHUNK and not lines.decisions
    engine.abort_request(["given up"])
    assert not engine.has_unfinished_requests()
    answers = said(asked(llm, [row["prompt"] for row in ROWS[:3]], [None, {"asa": 0}, None]))
    assert answers == [ROWS[0]["asa"]["ids"][:8], ROWS[1]["plain"]["ids"][:8], ROWS[2]["asa"]["ids"][:8]]
    assert len(lines.decisions) == 2
