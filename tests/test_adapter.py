"""The adapter: its decisions against scikit-learn's, its push against a plain one-shot hook, its files, its refusals.

Steering must act once per answer, at the last prompt token, in every way an application calls a model, and must leave
no trace behind; where it would act wrongly it must refuse.
"""

import copy
import json
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import HIDDEN, PAD, PREFIX, Fitted, fit_adapter, hooks_of, make_lfm2, make_llama, one_push
from helpers import Answer, assert_near, full_logits, plain_and_true
from safetensors.torch import load_file, save_file
from transformers import DynamicCache
from truth import allowed_error

from asa import AdapterError, ASAAdapter
from asa.adapter import gate_of
from asa.method.steering import gates
from asa.models.fingerprint import fingerprint
from asa.models.layout import block_output, decoder_layers
from asa.support.files import VERSION

NEW = 8  # tokens of an answer


@pytest.fixture(scope="module")
def fitted(tiny_model, prompts) -> Fitted:
    return fit_adapter(tiny_model, prompts)


@pytest.fixture(scope="module")
def adapter(fitted) -> ASAAdapter:
    return fitted.adapter


@pytest.fixture(scope="module")
def expected(tiny_model, adapter, fitted, prompts) -> list[Answer]:
    """What a plain one-shot hook with the adapter's push makes the model say, prompt by prompt."""
    delta, _ = adapter.push(fitted.states)
    answers = []
    for prompt, row in zip(prompts, delta, strict=True):
        with one_push(tiny_model, adapter.layer, row):
            (answer,) = said(tiny_model, padded([prompt]))
        answers.append(Answer(answer, tiny_model, prompt, (adapter.layer, row)))
    return answers


def padded(prompts: list[list[int]], side: str = "left") -> dict[str, torch.Tensor]:
    """Ids and mask of a batch."""
    longest = max(len(prompt) for prompt in prompts)
    ids, mask = [], []
    for prompt in prompts:
        pad = longest - len(prompt)
        left, right = (pad, 0) if side == "left" else (0, pad)
        ids.append([PAD] * left + prompt + [PAD] * right)
        mask.append([0] * left + [1] * len(prompt) + [0] * right)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def said(model, inputs: dict, **options) -> list[list[int]]:
    """Greedy answers of `NEW` tokens, whatever the tokens are."""
    greedy = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    out = model.generate(**inputs, **greedy | options)
    given = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    return out[:, given:].tolist()


def changed(adapter: ASAAdapter, **config) -> ASAAdapter:
    """The same adapter with other settings."""
    return ASAAdapter(adapter.config | config, dict(adapter.arrays))


def simple(p_tool: list[float], **config) -> ASAAdapter:
    """One domain a probability, routed by which of the first columns is largest, whatever else the state holds."""
    count = len(p_tool)
    weight = torch.zeros(2 * count, HIDDEN)
    weight[:count, :count] = torch.eye(count)
    bias = torch.cat([torch.zeros(count), torch.tensor(p_tool, dtype=torch.float64).logit().float()])
    model = {"hidden_size": HIDDEN}
    settings = {"layer": 1, "alpha": 2.0, "dose": 0.5, "tau": 0.6, "domains": list("abcdefgh"[:count]), "model": model}
    return ASAAdapter(settings | config, {"weight": weight, "bias": bias, "vectors": torch.eye(HIDDEN)[:count]})


# --- decisions


@pytest.mark.parametrize("names", [("math", "code", "search"), ("math", "code"), ("only",)])
def test_decisions_are_those_of_scikit_learn(tiny_model, prompts, names):
    """Folding scaler, router and probes into one matrix changes no route and no probability."""
    fitted = fit_adapter(tiny_model, prompts, names)
    noise = torch.randn(300, HIDDEN, generator=torch.Generator().manual_seed(0))
    states = fitted.states.mean(0) + 1.5 * fitted.states.std(0) * noise
    states = torch.cat([fitted.states, states])
    routed, p_tool, gate = fitted.adapter.decide(states)
    p = fitted.readers.p_tool(states.numpy())
    assert routed.tolist() == fitted.readers.route(states.numpy()).tolist()
    assert set(routed.tolist()) == set(range(len(names)))
    np.testing.assert_allclose(p_tool.numpy(), p, atol=1e-4)
    assert p.min() < 0.05 and p.max() > 0.95
    tau = fitted.adapter.tau
    clear = np.abs(np.maximum(p, 1 - p) - tau) > 1e-3
    by_hand = np.where(p >= tau, 1, np.where(p <= 1 - tau, -1, 0))
    assert clear.sum() > 200 and set(by_hand) == {-1, 0, 1}
    assert gate.numpy()[clear].tolist() == by_hand[clear].tolist()


def test_the_gate_at_its_edges():
    """p = tau pushes up, p = 1 - tau pushes down, a hair inside does nothing; at tau = 0.5, 0.5 pushes up."""
    state = torch.zeros(1, HIDDEN)
    for p in (0.6, 0.75, 0.9):
        up, down = simple([p]), simple([1 - p])
        high, low = (adapter.push(state)[1][0].p_tool for adapter in (up, down))
        assert abs(high - p) < 1e-6 and abs(1 - low - p) < 1e-6
        above, below = high + 1e-12, low - 1e-12
        for adapter, tau, gate in ((up, high, 1), (up, above, 0), (down, 1 - low, -1), (down, 1 - below, 0)):
            assert changed(adapter, tau=tau).decide(state)[2].item() == gate
    gates = [simple([p], tau=0.5).decide(state)[2].item() for p in (1e-6, 0.499, 0.5, 0.501, 1 - 1e-6)]
    assert gates == [-1, -1, 1, 1, 1]


def test_the_gate_is_the_one_that_was_tuned():
    """Also where p and 1 - tau differ in their last bit only: what tuning scored is what the adapter does."""
    for tau in (0.5, 0.6, 0.7, 0.8, 0.9):
        chances = np.array([n / 1000 for n in range(1001)] + [1 - tau, tau])
        assert [gate_of(p, tau) for p in chances.tolist()] == gates(chances, tau).tolist()
    assert gate_of(0.1, 0.9) == -1 and 0.1 > 1 - 0.9


def test_every_row_has_its_own_route_and_push():
    """Domain, gate, vector and dose of one batch, by hand; a dose of 0 where nothing is pushed."""
    adapter = simple([0.9, 0.5, 0.2])
    hidden = 3 * torch.eye(HIDDEN)[[2, 1, 0, 2]]
    delta, decisions = adapter.push(hidden)
    assert [(d.domain, round(d.p_tool, 4), d.gate, d.layer, d.dose) for d in decisions] == [
        ("c", 0.2, -1, 1, 0.5), ("b", 0.5, 0, 1, 0.0), ("a", 0.9, 1, 1, 0.5), ("c", 0.2, -1, 1, 0.5)
    ]  # fmt: skip
    unit = torch.eye(HIDDEN)
    assert torch.equal(delta, torch.stack([-2 * unit[2], 0 * unit[1], 2 * unit[0], -2 * unit[2]]))
    assert delta.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decides_in_fp32_whatever_the_model_holds(adapter, fitted, dtype):
    """The state is what the model rounds, nothing else."""
    states = fitted.states.to(dtype)
    for half, full in zip(adapter.decide(states), adapter.decide(states.float()), strict=True):
        assert torch.equal(half, full)


def test_states_that_are_not_finite_are_refused(adapter, fitted):
    """A comparison with NaN would be a silent gate of 0."""
    for bad in (float("nan"), float("inf")):
        states = fitted.states.clone()
        states[2, 5] = bad
        with pytest.raises(ValueError, match="not finite"):
            adapter.decide(states)


# --- steering


@pytest.mark.slow
def test_the_fixtures_can_show_a_fault(tiny_model, adapter, fitted, prompts, expected):
    """All gates and several domains occur, a push changes answers, and pushing at every step gives others again."""
    delta, decisions = adapter.push(fitted.states)
    assert {d.gate for d in decisions} == {-1, 0, 1}
    assert len({d.domain for d in decisions if d.gate}) > 1
    plain = [said(tiny_model, padded([prompt]))[0] for prompt in prompts]
    pushed = [row for row, d in enumerate(decisions) if d.gate]
    moved = [row for row in range(len(prompts)) if plain[row] != expected[row]]
    assert set(moved) <= set(pushed) and {0, 1, 5, 7} <= set(moved)  # the rows that the tests below look at
    always = []
    for prompt, row in zip(prompts, delta, strict=True):
        block = decoder_layers(tiny_model)[adapter.layer]
        handle = block.register_forward_hook(at_every_step(row))
        always.append(said(tiny_model, padded([prompt]))[0])
        handle.remove()
    assert sum(a != b for a, b in zip(always, expected, strict=True)) > len(pushed) // 2


def at_every_step(push: torch.Tensor):
    """A hook that pushes the last column of every call."""

    def hook(_module, _args, output):
        block_output(output)[:, -1] += push

    return hook


def agree(trace, adapter: ASAAdapter, states: torch.Tensor) -> bool:
    """Whether a trace holds one decision a row, those of `states`, in order."""
    _, decisions = adapter.push(states)
    return (
        [(d.domain, d.gate, d.layer, d.dose) for d in trace.decisions]
        == [(d.domain, d.gate, d.layer, d.dose) for d in decisions]
    ) and np.allclose([d.p_tool for d in trace.decisions], [d.p_tool for d in decisions], atol=1e-4)


def test_generate_is_pushed_once_a_row(tiny_model, adapter, fitted, prompts, expected):
    """Left padding: every row of a batch is decided and pushed as if alone; decoding steps are left alone."""
    with adapter.steer(tiny_model) as trace:
        assert said(tiny_model, padded(prompts)) == expected
    assert agree(trace, adapter, fitted.states)


def test_generate_one_by_one(tiny_model, adapter, fitted, prompts, expected):
    """Every call of generate inside one `with` is an answer of its own."""
    with adapter.steer(tiny_model) as trace:
        assert [said(tiny_model, padded([prompt]))[0] for prompt in prompts] == expected
    assert agree(trace, adapter, fitted.states)


def test_ways_of_calling_generate(tiny_model, adapter, fitted, prompts, expected):
    """Ids by position, as `inputs`, without a mask, as embeddings, in inference mode, with a static cache."""
    ids = padded([prompts[7]])["input_ids"]
    embeds = tiny_model.get_input_embeddings()(ids).detach()
    greedy = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}
    ways = {
        "position": lambda: tiny_model.generate(ids, **greedy)[:, ids.shape[1] :],
        "inputs": lambda: tiny_model.generate(inputs=ids, **greedy)[:, ids.shape[1] :],
        "embeddings": lambda: tiny_model.generate(inputs_embeds=embeds, **greedy),
        "inference": lambda: torch.inference_mode()(tiny_model.generate)(ids, **greedy)[:, ids.shape[1] :],
        "static": lambda: tiny_model.generate(ids, cache_implementation="static", **greedy)[:, ids.shape[1] :],
    }
    for name, way in ways.items():
        with adapter.steer(tiny_model) as trace:
            assert way().tolist() == [expected[7]], name
        assert agree(trace, adapter, fitted.states[7:8]), name


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}],
)
def test_beams(tiny_model, adapter, fitted, prompts, options):
    """All beams of a row share its push; the result is beam search with a one-shot hook."""
    rows, beams = [0, 4, 7], options["num_beams"]
    inputs, states = padded([prompts[row] for row in rows]), fitted.states[rows].repeat_interleave(beams, dim=0)
    with one_push(tiny_model, adapter.layer, adapter.push(states)[0]):
        plain = said(tiny_model, inputs, **options)
    with adapter.steer(tiny_model) as trace:
        assert said(tiny_model, inputs, **options) == plain
    assert agree(trace, adapter, states)
    assert plain != said(tiny_model, inputs, **options)


def test_sampled_sequences(tiny_model, adapter, fitted, prompts):
    """Several sequences a prompt: each is decided once, and drawn as with a one-shot hook."""
    options = {"do_sample": True, "num_return_sequences": 3}
    inputs, states = padded(prompts[:2]), fitted.states[:2].repeat_interleave(3, dim=0)
    torch.manual_seed(5)
    with one_push(tiny_model, adapter.layer, adapter.push(states)[0]):
        plain = said(tiny_model, inputs, **options)
    torch.manual_seed(5)
    with adapter.steer(tiny_model) as trace:
        assert said(tiny_model, inputs, **options) == plain
    assert agree(trace, adapter, states)


def cache_of(model, prompts: list[list[int]], length: int) -> DynamicCache:
    """A cache of the prompts' first `length` tokens."""
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.tensor(prompts)[:, :length], past_key_values=cache, use_cache=True)
    return cache


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("known", [PREFIX, "all but one"])
def test_a_cache_of_the_beginning(tiny_model, adapter, fitted, prompts, expected, known, chunk):
    """The whole prompt with a cache of its beginning, down to one token left, and chunked as well."""
    rows = [1, 3, 8]  # of equal length
    same = [prompts[row] for row in rows]
    cache = cache_of(tiny_model, same, PREFIX if known == PREFIX else len(same[0]) - 1)
    with adapter.steer(tiny_model) as trace:
        answers = said(tiny_model, padded(same), past_key_values=cache, prefill_chunk_size=chunk)
    assert answers == [expected[row] for row in rows]
    assert agree(trace, adapter, fitted.states[rows])


def test_only_what_follows_the_cache(tiny_model, adapter, fitted, prompts, expected):
    """Only the new ids, with a mask over everything: the other form that generate takes."""
    rows = [1, 3, 8]
    same = padded([prompts[row] for row in rows])
    cache = cache_of(tiny_model, [prompts[row] for row in rows], PREFIX)
    inputs = {"input_ids": same["input_ids"][:, PREFIX:], "attention_mask": same["attention_mask"]}
    with adapter.steer(tiny_model) as trace:
        assert said(tiny_model, inputs, past_key_values=cache) == [expected[row] for row in rows]
    assert agree(trace, adapter, fitted.states[rows])


@pytest.mark.parametrize("chunk", [1, 16, 44, 45, 100])
def test_chunked_prefill(tiny_model, adapter, fitted, prompts, expected, chunk):
    """The last prompt token alone is pushed, in the chunk that holds it; 45 tokens in chunks that end on it or not."""
    rows = [1, 3, 8]
    inputs = padded([prompts[row] for row in rows])
    assert inputs["input_ids"].shape[1] == 45
    with adapter.steer(tiny_model) as trace:
        assert said(tiny_model, inputs, prefill_chunk_size=chunk) == [expected[row] for row in rows]
    assert agree(trace, adapter, fitted.states[rows])


def test_without_a_cache(tiny_model, adapter, fitted, prompts, expected):
    """Generate runs the prompt again for every token: its last token is pushed each time, and decided once."""
    with adapter.steer(tiny_model) as trace:
        assert said(tiny_model, padded(prompts), use_cache=False) == expected
    assert agree(trace, adapter, fitted.states)


@pytest.mark.slow
def test_assisted_decoding(tiny_llama, prompts):
    """Candidates stand behind the prompt in the first call: not they but the last prompt token is pushed."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    echoes = [padded([prompt[-4:] + prompt]) for prompt in prompts[:6]]  # so that the prompt holds candidates
    plain = [said(tiny_llama, echo) for echo in echoes]
    answers, decisions = {}, {}
    assistant = make_llama(seed=4, num_hidden_layers=1)
    for name, options in {
        "alone": {}, "lookup": {"prompt_lookup_num_tokens": 3}, "assistant": {"assistant_model": assistant},
    }.items():  # fmt: skip
        with adapter.steer(tiny_llama) as trace:
            answers[name] = [said(tiny_llama, echo, **options) for echo in echoes]
        decisions[name] = [(d.domain, d.gate) for d in trace.decisions]
    assert answers["alone"] == answers["lookup"] == answers["assistant"]
    assert decisions["alone"] == decisions["lookup"] == decisions["assistant"]
    assert sum(a != b for a, b in zip(answers["alone"], plain, strict=True)) > 2


def step_by_step(model, prompt: list[int]) -> list[int]:
    """Greedy decoding by plain forward calls with a cache."""
    ids, cache, answer = torch.tensor([prompt]), None, []
    for _ in range(NEW):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1].clone()
        logits[:, model.generation_config.eos_token_id] = float("-inf")  # as `min_new_tokens` does
        cache, ids = out.past_key_values, logits.argmax(-1, keepdim=True)
        answer.append(ids.item())
    return answer


def test_plain_forward_calls(tiny_model, adapter, fitted, prompts, expected):
    """A loop with a cache is pushed at its first call only; a call without a cache begins the next answer."""
    with adapter.steer(tiny_model) as trace:
        assert [step_by_step(tiny_model, prompts[row]) for row in (7, 5, 0)] == [expected[row] for row in (7, 5, 0)]
    assert agree(trace, adapter, fitted.states[[7, 5, 0]])


def test_a_plain_call_with_a_cache_of_the_beginning(tiny_model, adapter, fitted, prompts):
    """The first call acts whatever its cache holds."""
    cache = cache_of(tiny_model, [prompts[7]], PREFIX)
    with adapter.steer(tiny_model) as trace, torch.no_grad():
        logits = tiny_model(torch.tensor([prompts[7][PREFIX:]]), past_key_values=cache, use_cache=True).logits[0, -1]
    push = (adapter.layer, adapter.push(fitted.states[7:8])[0][0])
    plain, true = plain_and_true(tiny_model, lambda model: full_logits(model, prompts[7], [], push))
    assert_near(logits, true[-1], allowed_error((plain, true)))
    assert agree(trace, adapter, fitted.states[7:8])


def test_only_the_last_column_moves(tiny_model, adapter, fitted, prompts):
    """By g * alpha * v, and no other column by a bit."""
    seen = []
    block = decoder_layers(tiny_model)[adapter.layer]
    inputs = padded([prompts[row] for row in (1, 3, 8)])
    delta, _ = adapter.push(fitted.states[[1, 3, 8]])
    for steered in (False, True):
        with adapter.steer(tiny_model) if steered else warnings.catch_warnings(), torch.no_grad():
            handle = block.register_forward_hook(lambda _m, _a, output: seen.append(block_output(output).clone()))
            tiny_model(**inputs)
            handle.remove()
    assert torch.equal(seen[0][:, :-1], seen[1][:, :-1])
    assert torch.equal(seen[1][:, -1], seen[0][:, -1] + delta)


def test_alpha_0_changes_nothing(tiny_model, adapter, prompts):
    """Decisions are taken, tokens stay."""
    plain = said(tiny_model, padded(prompts))
    with changed(adapter, alpha=0.0, dose=0.0).steer(tiny_model) as trace:
        assert said(tiny_model, padded(prompts)) == plain
    assert {d.gate for d in trace.decisions} == {-1, 0, 1}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model(tiny_model, adapter, prompts, dtype):
    """The push is added in fp32 and rounded once, as in the replay that tuning scores."""
    model, seen = copy.deepcopy(tiny_model).to(dtype), []
    for steered in (False, True):
        with adapter.steer(model) if steered else warnings.catch_warnings(), torch.no_grad():
            handle = decoder_layers(model)[adapter.layer].register_forward_hook(
                lambda _m, _a, output: seen.append(block_output(output)[:, -1].clone())
            )
            model(**padded(prompts))
            handle.remove()
    plain, pushed = seen
    delta, decisions = adapter.push(plain)
    assert {d.gate for d in decisions} == {-1, 0, 1}
    assert torch.equal(pushed, (plain.float() + delta).to(dtype))
    assert not torch.equal(pushed, plain + delta.to(dtype))  # rounded twice
    with adapter.steer(model) as trace:
        assert len(said(model, padded(prompts))) == len(trace.decisions) == len(prompts)


# --- what is refused, and what is left behind


@pytest.mark.parametrize("way", ["generate", "forward"])
def test_right_padding_is_refused(tiny_model, adapter, prompts, way):
    """Its last column is a pad; nothing was decided on it."""
    inputs, before = padded(prompts[:3], side="right"), hooks_of(tiny_model)
    with pytest.raises(ValueError, match=r"padded on the right: set tokenizer\.padding_side = 'left'"):
        with adapter.steer(tiny_model) as trace:
            said(tiny_model, inputs) if way == "generate" else tiny_model(**inputs)
    assert trace.decisions == []
    assert hooks_of(tiny_model) == before


def test_right_padding_is_refused_whatever_the_cache(tiny_model, adapter, prompts):
    """With a static cache generate makes the mask itself before the model sees it."""
    with pytest.raises(ValueError, match="padded on the right"), adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:3], side="right"), cache_implementation="static")


def test_nothing_is_left_behind(tiny_model, adapter, prompts):
    """After a normal end, an exception inside, one inside generate, and a refusal: own hooks and own generate only."""
    before, plain = hooks_of(tiny_model), said(tiny_model, padded(prompts[:3]))

    def clean() -> bool:
        return hooks_of(tiny_model) == before and "generate" not in vars(tiny_model)

    with adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:3]))
        assert hooks_of(tiny_model) != before
    assert clean()
    with pytest.raises(KeyError), adapter.steer(tiny_model):
        raise KeyError
    assert clean()
    with pytest.raises((ValueError, RuntimeError, TypeError)), adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:3]), no_such_option=1)
    assert clean()
    other = changed(adapter, model=adapter.config["model"] | {"vocab_size": 7})
    with pytest.raises(AdapterError), other.steer(tiny_model):
        pass
    assert clean()
    for layer in (99, -1):
        with pytest.raises(AdapterError, match="layer"), changed(adapter, layer=layer).steer(tiny_model):
            pass
        assert clean()
    assert said(tiny_model, padded(prompts[:3])) == plain
    with adapter.steer(tiny_model) as trace:  # and the model is free again
        said(tiny_model, padded(prompts[:3]))
    assert len(trace.decisions) == 3


def test_an_answer_that_fails_does_not_spoil_the_next(tiny_model, adapter, fitted, prompts, expected):
    """Inside one `with`: generate fails at its end or midway, the next answer is pushed as ever."""

    class Stop(Exception):
        pass

    def stop(_ids, _scores, **_more):
        raise Stop

    with adapter.steer(tiny_model) as trace:
        with pytest.raises(Stop):
            said(tiny_model, padded([prompts[0]]), stopping_criteria=[stop])
        with pytest.raises((ValueError, RuntimeError, TypeError)):
            said(tiny_model, padded([prompts[0]]), no_such_option=1)
        assert said(tiny_model, padded([prompts[7]])) == [expected[7]]
        assert step_by_step(tiny_model, prompts[5]) == expected[5]
    assert agree(trace, adapter, fitted.states[[0, 7, 5]])


def test_the_callers_own_generate_and_hooks_stay(tiny_model, adapter, fitted, prompts, expected):
    """A model whose generate somebody has wrapped keeps the wrapper, and it is used."""
    calls, own = [], tiny_model.generate
    tiny_model.generate = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    wrapper = tiny_model.generate
    handle = decoder_layers(tiny_model)[0].register_forward_hook(lambda *_: None)
    before = hooks_of(tiny_model)
    try:
        with adapter.steer(tiny_model) as trace:
            assert said(tiny_model, padded([prompts[7]])) == [expected[7]]
        assert vars(tiny_model).get("generate") is wrapper
        assert hooks_of(tiny_model) == before
        assert calls == [1] and agree(trace, adapter, fitted.states[7:8])
    finally:
        vars(tiny_model).pop("generate", None)
        handle.remove()


def test_nested_steering_is_refused(tiny_model, adapter, fitted, prompts, expected):
    """By the same adapter or another; the outer one goes on."""
    for inner in (adapter, changed(adapter, alpha=1.0)):
        with adapter.steer(tiny_model) as trace:
            with pytest.raises(AdapterError, match="being steered already"), inner.steer(tiny_model):
                pass
            assert said(tiny_model, padded([prompts[7]])) == [expected[7]]
        assert agree(trace, adapter, fitted.states[7:8])


def test_two_models_at_once(tiny_model, adapter, prompts, expected):
    """Steering one model does not keep another from being steered, nor touch it."""
    twin = copy.deepcopy(tiny_model)
    plain = said(twin, padded([prompts[7]]))
    with adapter.steer(tiny_model) as trace:
        assert said(twin, padded([prompts[7]])) == plain
        with adapter.steer(twin) as other:
            assert said(twin, padded([prompts[7]])) == said(tiny_model, padded([prompts[7]])) == [expected[7]]
    assert len(trace.decisions) == len(other.decisions) == 1


def test_a_second_thread_is_refused(tiny_model, adapter, prompts, expected):
    """While one thread steers a model; its answer is not disturbed."""
    inside, refused, found = threading.Event(), threading.Event(), {}

    def first():
        with adapter.steer(tiny_model) as trace:
            inside.set()
            refused.wait(20)
            found["first"] = said(tiny_model, padded([prompts[7]]))
        found["decisions"] = len(trace.decisions)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(20)
    try:
        with pytest.raises(AdapterError, match="being steered already"), adapter.steer(tiny_model):
            pass
    finally:
        refused.set()
        thread.join(20)
    assert found == {"first": [expected[7]], "decisions": 1}


@pytest.mark.slow
def test_threads_that_come_at_the_same_moment(tiny_llama, prompts, monkeypatch):
    """Only one gets in: looking whether a model is free and taking it are one step."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    monkeypatch.setattr(ASAAdapter, "check_model", lambda self, model: barrier.wait(20))
    interval, before = sys.getswitchinterval(), hooks_of(tiny_llama)
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            barrier, entered, leave = threading.Barrier(4), [], threading.Event()

            def enter(entered=entered, leave=leave):
                try:
                    with warnings.catch_warnings(action="ignore"), adapter.steer(tiny_llama):
                        entered.append(True)
                        leave.wait(20)
                except AdapterError:
                    entered.append(False)

            threads = [threading.Thread(target=enter) for _ in range(4)]
            for thread in threads:
                thread.start()
            while len(entered) < 4:
                leave.wait(0.001)
            leave.set()
            for thread in threads:
                thread.join(20)
            assert sorted(entered) == [False, False, False, True]
    finally:
        leave.set()
        sys.setswitchinterval(interval)
    assert hooks_of(tiny_llama) == before


@pytest.mark.slow
def test_compiled_models_are_refused(tiny_llama, prompts):
    """All forms; compiled code never sees a later hook. Nothing is compiled here: that happens when it is called."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    in_place = copy.deepcopy(tiny_llama)
    in_place.compile()
    forward = copy.deepcopy(tiny_llama)
    forward.forward = torch.compile(forward.forward)  # as the documentation of transformers shows it
    for compiled in (torch.compile(tiny_llama), in_place, forward):
        with pytest.raises(AdapterError, match="compiled"), adapter.steer(compiled):
            pass


def test_a_block_without_an_answer_warns(tiny_model, adapter, prompts):
    """The likely mistake: the model was called outside. An answer, or an error of the caller's, does not warn."""
    with pytest.warns(UserWarning, match="nothing was generated") as caught:
        with adapter.steer(tiny_model):
            pass
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(KeyError), adapter.steer(tiny_model):
            raise KeyError
        with adapter.steer(tiny_model):
            said(tiny_model, padded(prompts[:1]))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"hidden_size": 64}, "hidden_size 32 .* 64"),
        ({"num_hidden_layers": 5}, "num_hidden_layers 4 .* 5"),
        ({"vocab_size": 401}, "vocab_size 400 .* 401"),
        ({"seed": 1}, "other weights"),
    ],
)
def test_another_model_is_refused(tiny_llama, prompts, changes, names):
    """By width, depth, vocabulary and, where all of these fit, by its embeddings; steering asks as well."""
    adapter, other = fit_adapter(tiny_llama, prompts).adapter, make_llama(**changes)
    with pytest.raises(AdapterError, match=names):
        adapter.check_model(other)
    with pytest.raises(AdapterError, match=names), adapter.steer(other):
        pass
    adapter.check_model(tiny_llama)


def test_another_kind_of_model_is_refused(tiny_llama, prompts):
    """Of the same width, depth and vocabulary."""
    other = make_lfm2(("conv", "conv", "full_attention", "conv"))
    with pytest.raises(AdapterError, match=r"model_type llama .* lfm2"):
        fit_adapter(tiny_llama, prompts).adapter.check_model(other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_model_in_another_dtype_is_accepted(tiny_model, adapter, dtype):
    """Rounded weights are the same weights."""
    adapter.check_model(copy.deepcopy(tiny_model).to(dtype))


# --- files


def test_the_home_folder_is_meant_by_a_tilde(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    adapter.save("~/adapter")
    assert (tmp_path / "adapter" / "config.json").is_file()
    assert ASAAdapter.from_pretrained("~/adapter").layer == adapter.layer


def test_saving_and_loading_changes_no_bit(adapter, fitted, tmp_path):
    """Arrays, settings and decisions; a second saving writes the same bytes; nothing else lies in the folder.

    A probability may differ in its last bit: where an array begins in memory changes the order of a product's sums.
    """
    adapter.save(tmp_path / "a" / "new")
    loaded = ASAAdapter.from_pretrained(tmp_path / "a" / "new")
    loaded.save(tmp_path / "b")
    assert loaded.config == {"format": 1} | adapter.config | {"asa_version": VERSION}
    for name in ("layer", "tau", "alpha", "dose", "domains"):
        assert getattr(loaded, name) == getattr(adapter, name)
    assert loaded.arrays.keys() == adapter.arrays.keys()
    assert all(torch.equal(loaded.arrays[name], adapter.arrays[name]) for name in adapter.arrays)
    assert all(array.dtype == torch.float32 for array in loaded.arrays.values())
    delta, decisions = adapter.push(fitted.states)
    again, repeated = ASAAdapter.from_pretrained(str(tmp_path / "b")).push(fitted.states)
    assert torch.equal(delta, again)
    for one, other in zip(decisions, repeated, strict=True):
        assert other == replace(one, p_tool=pytest.approx(one.p_tool, rel=1e-6))
    files = sorted(path.name for path in (tmp_path / "b").iterdir())
    assert files == ["adapter.safetensors", "config.json"]
    for name in files:
        assert (tmp_path / "a" / "new" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_saved_adapter_steers_the_saved_model(tiny_model, adapter, prompts, expected, tmp_path):
    """Model and adapter both come back from disk and say the same."""
    adapter.save(tmp_path / "adapter")
    tiny_model.save_pretrained(tmp_path / "model")
    model = type(tiny_model).from_pretrained(tmp_path / "model")
    with ASAAdapter.from_pretrained(tmp_path / "adapter").steer(model):
        assert said(model, padded(prompts)) == expected


def test_files_are_small(tmp_path):
    """At LFM2.5's width with four domains: at most 221 KB, what the original's assets take."""
    domains = ["math", "code", "search", "translation"]
    config = {"layer": 12, "alpha": 1.0, "dose": 0.5, "tau": 0.6, "domains": domains, "model": {"hidden_size": 2048}}
    arrays = {"weight": torch.randn(8, 2048), "bias": torch.randn(8), "vectors": torch.randn(4, 2048)}
    ASAAdapter(config, arrays).save(tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 4 * 12 * 2048 < size <= 221_000


@pytest.fixture
def saved(tmp_path) -> Path:
    """A good adapter's folder."""
    simple([0.9, 0.1]).save(tmp_path / "good")
    ASAAdapter.from_pretrained(tmp_path / "good")
    return tmp_path / "good"


def test_a_missing_adapter_is_refused(saved, tmp_path):
    """No folder, an empty one, and one with a file missing, by name."""
    with pytest.raises(AdapterError, match=r"holds no adapter: config\.json is missing"):
        ASAAdapter.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match=r"holds no adapter: config\.json is missing"):
        ASAAdapter.from_pretrained(tmp_path / "empty")
    (saved / "adapter.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"holds no adapter: .*adapter\.safetensors.* is missing"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped header", "text"])
def test_a_damaged_file_of_arrays_is_refused(saved, damage):
    """Whatever the transfer did to it."""
    path = saved / "adapter.safetensors"
    whole = path.read_bytes()
    path.write_bytes({
        "cut": whole[:-10], "empty": b"", "flipped header": bytes([whole[0] ^ 0xFF]) + whole[1:], "text": b"<html>" * 9,
    }[damage])  # fmt: skip
    with pytest.raises(AdapterError, match="damaged adapter"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe{}", b'{"format": 1}', b'{"format": 1, "layer": []}'])
def test_a_damaged_config_is_refused(saved, content):
    """Cut, of another encoding, or without what an adapter needs."""
    (saved / "config.json").write_bytes(content)
    with pytest.raises(AdapterError, match="damaged adapter"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("name", ["layer", "alpha", "dose", "tau", "domains", "model"])
def test_a_config_without_a_setting_is_refused(saved, name):
    """When it is loaded, not when it is used."""
    config = json.loads((saved / "config.json").read_text())
    del config[name]
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match=name):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 2}', '{"format": "1"}', "1"])
def test_another_format_is_refused(saved, content):
    """An adapter of a later version, or a config that is none, such as the original's."""
    (saved / "config.json").write_text(content)
    with pytest.raises(AdapterError, match="not an adapter of format 1"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("weight", (4, 31)), ("weight", (3, 32)), ("bias", (2,)), ("vectors", (1, 32)), ("vectors", (2, 31))],
)
def test_wrong_shapes_are_refused(saved, name, shape):
    """By the array's name and both shapes."""
    path = saved / "adapter.safetensors"
    arrays = {key: array.clone() for key, array in load_file(path).items()}
    right = tuple(arrays[name].shape)
    save_file(arrays | {name: torch.zeros(shape)}, path)
    with pytest.raises(AdapterError) as refusal:
        ASAAdapter.from_pretrained(saved)
    assert name in str(refusal.value) and str(shape) in str(refusal.value) and str(right) in str(refusal.value)


def test_a_missing_array_is_refused(saved):
    path = saved / "adapter.safetensors"
    save_file({key: array.clone() for key, array in load_file(path).items() if key != "vectors"}, path)
    with pytest.raises(AdapterError, match=r"damaged adapter.*: 'vectors' is missing"):
        ASAAdapter.from_pretrained(saved)


@pytest.mark.parametrize("tau", [0.49, 1.0, -1.0, float("nan")])
def test_a_tau_that_is_no_confidence_is_refused(tau):
    """Below 0.5 the two pushes overlap; at 1 nothing is ever pushed."""
    with pytest.raises(AdapterError, match="tau must be in"):
        simple([0.5], tau=tau)


def test_a_hub_id(saved, monkeypatch):
    """`owner/name` that is no folder is asked from the hub, for the two files only; a failure is one sentence."""
    asked = []

    def snapshot(repo, **options):
        asked.append((repo, sorted(options["allow_patterns"])))
        if repo == "someone/else":
            raise OSError("offline")
        return str(saved)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert ASAAdapter.from_pretrained("owner/name").domains == ["a", "b"]
    with pytest.raises(AdapterError, match=r"^someone/else: no such folder, and the hub does .* \(OSError\)\.$"):
        ASAAdapter.from_pretrained("someone/else")
    files = ["adapter.safetensors", "config.json"]
    assert asked == [("owner/name", files), ("someone/else", files)]
    with pytest.raises(AdapterError, match=r"config\.json is missing"):
        ASAAdapter.from_pretrained("no-owner")
    assert len(asked) == 2


def test_nothing_is_unpickled(saved):
    """A pickle in the folder is never opened."""
    (saved / "router.pkl").write_bytes(b"cos\nabort\n(tR.")
    ASAAdapter.from_pretrained(saved)


def test_a_fingerprint_is_plain_json(tiny_model):
    """It survives the trip through a file."""
    found = fingerprint(tiny_model)
    assert json.loads(json.dumps(found)) == found
    assert len(found["embedding_norms"]) == 16
    assert len(set(found["embedding_norms"])) > 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layer": 999}, "layer 999 is none of the model's 4"),
        ({"model": None}, "model is None, not an object"),
        ({"num_hidden_layers": None}, "model's num_hidden_layers is None"),
        ({"vocab_size": -1}, "model's vocab_size is -1"),
        ({"embedding_norms": "x"}, "model's embedding_norms are no list of lengths"),
        ({"embedding_norms": [float("nan")]}, "model's embedding_norms are no list of lengths"),
        ({"blocks": ["AAAA"]}, "model's blocks are not one for each layer"),
        ({"blocks": [3] * 5}, "model's blocks are no base64"),
        ({"blocks": ["AAAA"] * 5}, "model's blocks are cut off"),
    ],
)
def test_a_damaged_fingerprint_is_blamed_on_the_file(tiny_llama, prompts, tmp_path, change, said):
    """When it is loaded, by the file's name."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    inside = {key: value for key, value in change.items() if key not in ("layer", "model")}
    outside = {key: value for key, value in change.items() if key in ("layer", "model")}
    adapter.config = adapter.config | {"model": adapter.config["model"] | inside} | outside
    adapter.save(tmp_path)
    path = tmp_path / "config.json"
    if "embedding_norms" in inside and inside["embedding_norms"] != "x":  # saving made null of NaN
        path.write_text(path.read_text().replace("null", "NaN"))
    with pytest.raises(AdapterError, match=f"^{path} holds a damaged adapter: {said}"):
        ASAAdapter.from_pretrained(tmp_path)
