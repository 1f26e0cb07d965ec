"""The vLLM plugin without vLLM: where a prompt's last token lies, what is refused. `tests/serving` runs the rest."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import HIDDEN, fit_adapter, hooks_of

from asa.app import vllm_plugin
from asa.app.vllm_plugin import Served, check_model, is_steered, register
from asa.hook import AdapterError


def runner_of(rows: list[tuple[int, int, int, dict | None]], model=None, eager: bool = True) -> SimpleNamespace:
    """A runner whose batch holds rows of (prompt tokens, computed before, computed now, extra arguments)."""
    prompts, before, now, extra = zip(*rows, strict=True) if rows else ((), (), (), ())
    batch = SimpleNamespace(
        num_reqs=len(rows), req_ids=[f"r{number}" for number in range(len(rows))],
        num_computed_tokens_cpu=np.array(before), num_prompt_tokens=np.array(prompts),
    )  # fmt: skip
    requests = {
        name: SimpleNamespace(sampling_params=SimpleNamespace(extra_args=given))
        for name, given in zip(batch.req_ids, extra, strict=True)
    }
    starts = SimpleNamespace(np=np.concatenate([[0], np.cumsum(now), [0, 0]]).astype(int))  # the rest is stale
    config = SimpleNamespace(enforce_eager=eager)
    return SimpleNamespace(
        input_batch=batch, query_start_loc=starts, requests=requests, model=model, model_config=config
    )


@pytest.fixture(scope="module")
def adapter(tiny_llama, prompts):
    return fit_adapter(tiny_llama, prompts).adapter


def test_the_last_prompt_token_is_found_wherever_it_lies(adapter):
    """In a whole prompt, in its last chunk, again behind a recomputation; not in a first chunk, nor in an answer."""
    rows = [
        (5, 0, 5, None), (9, 0, 4, None), (9, 4, 5, {}), (7, 7, 1, None), (7, 0, 10, None), (6, 5, 1, {"asa": "0"}),
        (3, 2, 1, {"asa": 1}),
    ]  # fmt: skip
    found = Served(adapter, runner_of(rows)).last_tokens()
    assert [(row, place) for row, place, _ in found] == [(0, 4), (2, 13), (4, 21), (6, 26)]
    assert Served(adapter, runner_of([])).last_tokens() == []


@pytest.mark.parametrize("split", [False, True], ids=["one stream", "hidden and residual"])
def test_only_last_prompt_tokens_are_pushed(adapter, split):
    """By what the adapter decides on their states; a request may ask for another dose."""
    rows = [(2, 0, 2, None), (4, 0, 3, None), (2, 1, 1, {"asa_dose": 0}), (1, 0, 1, {"asa_dose": 2 * adapter.dose})]
    states = torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(0))
    residual = torch.randn(7, HIDDEN, generator=torch.Generator().manual_seed(1)) if split else torch.zeros(7, HIDDEN)
    hidden = states - residual
    output = Served(adapter, runner_of(rows))._push(None, (), (hidden, residual) if split else hidden)
    pushed = (output[0] + output[1] if split else output) - states
    plain, _ = adapter.push(states[[1]])
    double, _ = adapter.tuned(dose=2 * adapter.dose).push(states[[6]])
    expected = torch.zeros(7, HIDDEN)
    expected[1], expected[6] = plain[0], double[0]
    torch.testing.assert_close(pushed, expected, atol=1e-3, rtol=1e-4)


def test_the_hook_is_put_on_the_adapters_block(adapter, tiny_llama):
    before = hooks_of(tiny_llama)
    with pytest.raises(AdapterError, match=r"start vLLM with --enforce-eager\.$"):
        Served(adapter, runner_of([], tiny_llama, eager=False)).attach()
    absent = SimpleNamespace(model=SimpleNamespace(layers=[torch.nn.Identity()] * 4))  # on another pipeline stage
    with pytest.raises(AdapterError, match=r"block 2 is not in this process: use --pipeline-parallel-size 1\.$"):
        Served(adapter, runner_of([], absent)).attach()
    assert hooks_of(tiny_llama) == before


def test_nothing_happens_without_an_adapter(monkeypatch):
    monkeypatch.setenv("ASA_ADAPTER", " ")
    register()
    monkeypatch.setenv("ASA_ADAPTER", "no/such/adapter")
    vllm_plugin.adapter_of_process.cache_clear()
    with pytest.raises(AdapterError, match="no/such/adapter"):
        register()


def test_another_model_is_refused(adapter, tiny_folder, tiny_llama, tmp_path):
    """By its checkpoint."""
    tiny_llama.save_pretrained(tmp_path)
    check_model(adapter, str(tmp_path))
    with pytest.raises(AdapterError, match=r"^the adapter needs model_type llama but the model has lfm2"):
        check_model(adapter, str(tiny_folder))


@pytest.mark.parametrize(
    ("extra", "steered"), [(None, True), ({"asa": 0}, False), ({"asa": "False"}, False), ({}, True)]
)
def test_a_request_may_leave_it_out(extra, steered):
    assert is_steered(extra) is steered
