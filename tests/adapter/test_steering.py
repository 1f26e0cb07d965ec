"""Steering: once per answer, at the last prompt token, in every way an application calls a model.

The truth is a plain one-shot hook; whatever else happens inside the same `with` must not change what it gives.
"""

import copy
import threading
import warnings

import pytest
import torch
from conftest import PREFIX, fit_adapter, hooks_of, make_llama, one_push
from helpers import Answer, assert_near, full_logits, plain_and_true
from steered import NEW, agree, changed, padded, said, step_by_step
from transformers import DynamicCache, LlamaForCausalLM
from truth import allowed_error

from asa import AdapterError, ASAAdapter
from asa.engine.engine import Engine
from asa.models.layout import block_output, decoder_layers


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


class Newer(LlamaForCausalLM):
    """A model as transformers has it from 5.24 on, where the cache goes by another name."""

    def forward(self, input_ids=None, cache=None, **more):
        return super().forward(input_ids, past_key_values=cache, **more)


def test_a_cache_by_its_newer_name(tiny_llama, prompts):
    """The adapter finds it there, and the engine gives it there."""
    newer = Newer(tiny_llama.config).eval()
    newer.load_state_dict(tiny_llama.state_dict())
    adapter, cache = fit_adapter(tiny_llama, prompts).adapter, cache_of(tiny_llama, [prompts[7]], PREFIX)
    tail, found = torch.tensor([prompts[7][PREFIX:]]), []
    for model, name in ((tiny_llama, "past_key_values"), (newer, "cache")):
        given = {name: copy.deepcopy(cache), "use_cache": True}
        with adapter.steer(model), torch.no_grad():
            found.append(model(input_ids=tail, **given).logits[0, -1])
        (batch,) = Engine(model, prompts[0][:PREFIX]).batches(prompts[:3], "")
        found.append(batch.last_token().logits)
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


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


def test_a_saved_adapter_steers_the_saved_model(tiny_model, adapter, prompts, expected, tmp_path):
    """Model and adapter both come back from disk and say the same."""
    adapter.save(tmp_path / "adapter")
    tiny_model.save_pretrained(tmp_path / "model")
    model = type(tiny_model).from_pretrained(tmp_path / "model")
    with ASAAdapter.from_pretrained(tmp_path / "adapter").steer(model):
        assert said(model, padded(prompts)) == expected
