"""The vLLM plugin without vLLM: where a prompt's last token lies, what is refused. `tests/serving` runs the rest."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import HIDDEN, fit_adapter, hooks_of

from asa.adapter.decision import AdapterError
from asa.app import vllm_plugin
from asa.app.vllm_plugin import Served, check_model, register
from asa.app.vllm_process import is_steered, tuning_in
from asa.models.known_prompts import prefix_mark


def runner_of(rows: list[tuple[int, int, int, dict | None]], model=None, eager: bool = True) -> SimpleNamespace:
    """A runner whose batch holds rows of (prompt tokens, computed before, computed now, extra arguments)."""
    prompts, before, now, extra = zip(*rows, strict=True) if rows else ((), (), (), ())
    batch = SimpleNamespace(
        num_reqs=len(rows), req_ids=[f"r{number}" for number in range(len(rows))],
        num_computed_tokens_cpu=np.array(before), num_prompt_tokens=np.array(prompts),
    )  # fmt: skip
    requests = {
        name: SimpleNamespace(sampling_params=SimpleNamespace(extra_args=given), prompt_token_ids=list(range(length)))
        for name, given, length in zip(batch.req_ids, extra, prompts, strict=True)
    }
    starts = SimpleNamespace(np=np.concatenate([[0], np.cumsum(now), [0, 0]]).astype(int))  # the rest is stale
    config = SimpleNamespace(enforce_eager=eager)
    return SimpleNamespace(
        input_batch=batch, query_start_loc=starts, requests=requests, model=model, model_config=config
    )


@pytest.fixture(scope="module")
def adapter(tiny_llama, prompts):
    return fit_adapter(tiny_llama, prompts).adapter


@pytest.fixture(autouse=True)
def counted(monkeypatch) -> Counter:
    """What `/metrics` would count; prometheus_client comes with vLLM."""
    found: Counter = Counter()
    counter = SimpleNamespace(labels=lambda *labels: SimpleNamespace(inc=lambda: found.update([labels])))
    monkeypatch.setattr(vllm_plugin, "decided_counter", lambda: counter)
    return found


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
def test_only_last_prompt_tokens_are_pushed(adapter, split, counted):
    """By what the adapter decides on their states, which is counted; a request may ask for another dose."""
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
    _, decisions = adapter.push(states[[1, 5, 6]])
    assert counted == Counter((decision.domain, decision.gate) for decision in decisions)


def test_of_processes_that_share_the_layers_one_tells(adapter, counted):
    served = Served(adapter, runner_of([(1, 0, 1, None)]), tells=False)
    served._push(None, (), torch.randn(1, HIDDEN))
    assert not counted


def test_prompts_of_another_kind_are_left_alone(adapter, monkeypatch):
    """The readers know nothing of prompts that do not begin as those of the fit."""
    monkeypatch.setitem(adapter.config, "prefix", prefix_mark([0, 1, 2]))
    served = Served(adapter, runner_of([(5, 0, 5, None), (2, 0, 2, None)]))
    assert [row for row, _, _ in served.last_tokens()] == [0]
    assert not served.knows(None)


@pytest.mark.parametrize(
    ("extra", "found"),
    [(None, (None, None)), ({"asa_tau": "0.5", "asa": 1}, (0.5, None)), ({"asa_dose": 0}, (None, 0))],
)
def test_gate_and_dose_of_a_request(extra, found):
    assert tuning_in(extra) == found


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"asa_tau": "high"}, "asa_tau is 'high': give a number, 0.5 or more and below 1."),
        ({"asa_tau": 1}, "asa_tau is '1': give a number, 0.5 or more and below 1."),
        ({"asa_tau": float("nan")}, "asa_tau is 'nan': give a number, 0.5 or more and below 1."),
        ({"asa_dose": -1}, "asa_dose is '-1': give a number, 0 or more."),
        ({"asa_dose": float("inf")}, "asa_dose is 'inf': give a number, 0 or more."),
        ({"asa_dose": [1]}, "asa_dose is '[1]': give a number, 0 or more."),
    ],
)
def test_a_gate_or_dose_that_cannot_be_is_refused(extra, said):
    with pytest.raises(AdapterError) as refused:
        tuning_in(extra)
    assert str(refused.value) == said


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
