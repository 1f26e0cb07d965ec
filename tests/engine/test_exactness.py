"""The exactness matrix of the hybrid: every shortcut against the plain way, on five LFM2s, in fp32 and bf16.

Four tiny models of other layer patterns (the last is that of LFM2.5) and the nano model; the six-layer tiny one and
Llama are in test_engine.py, test_batch.py and test_steering.py.

Whatever is computed is compared with the same weights in float64 and may be a few times as far from it as the plain
way is at its worst, on the machine that runs the test (helpers.py). Greedy answers must be equal token for token; up
to half of them, in practice in bf16 only, may part where the two tokens are tied within that error. Where the design
promises that two runs take one path there is no tolerance, in either dtype.
"""

import contextlib
import copy
import json
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch
from conftest import PAD, hooks_of, last_token, make_lfm2, make_prompts, one_push
from helpers import Answer, assert_near, exact, full_forwards, full_logits
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoTokenizer, CompileConfig, DynamicCache
from truth import allowed_error, error

import asa.engine.engine
from asa import AdapterError, ASAAdapter
from asa.engine.batch import Batch
from asa.engine.decoding import Decoder
from asa.engine.engine import Engine
from asa.engine.kv_cache import fork_cache
from asa.models.fingerprint import fingerprint
from asa.models.fitting import shared_prefix
from asa.models.layout import decoder_layers
from asa.models.profiles import choose_profile
from asa.models.prompts import Prompter
from asa.tools.definitions import load_tools

pytestmark = pytest.mark.slow

NANO = Path(__file__).parents[1] / "nano" / "lfm2-nano"
KINDS = {"c": "conv", "f": "full_attention"}
NEW = 6  # tokens of an answer


def nano_prompts() -> list[list[int]]:
    """Three of the nano model's requests that are equally long, and three others, as the pipeline renders them."""
    profile, _ = choose_profile(str(NANO), hub=False, gpu=False)
    tools = load_tools(Path(__file__).parents[2] / "data" / "tools.json")
    prompter = Prompter(AutoTokenizer.from_pretrained(NANO), profile, tools)
    rows = (NANO.parent / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    prompts = [prompter.ids(json.loads(row)["text"]) for row in rows[::2]]
    ((common, _),) = Counter(map(len, prompts)).most_common(1)
    same, others = ([p for p in prompts if (len(p) == common) == wanted] for wanted in (True, False))
    return same[:: len(same) // 3][:3] + others[:: len(others) // 3][:3]


@cache
def case_of(name: str, dtype: torch.dtype) -> SimpleNamespace:
    """A model, prompts (the first three equally long), an adapter for the middle, and how large an error may be.

    Truth is what the model does to each prompt alone in float64: `states` `[N, layers, H]` and `logits`
    `[N, vocabulary]`. `plain` and `steered` (by a one-shot hook) are the model's own answers by `generate`, and the
    true logits `[N, vocabulary]` of their first tokens. `limit` comes from the plain way's states and first logits.
    """
    if name == "nano":
        model, prompts = AutoModelForCausalLM.from_pretrained(NANO), nano_prompts()
    else:
        model = make_lfm2([KINDS[kind] for kind in name], seed=3)
        prompts = make_prompts((5, 5, 5, 9, 2, 14, 3, 9), seed=6, prefix=20)
    model = model.to(dtype).eval()
    found = full_forwards(model, prompts)
    with exact(model) as twin:
        true = full_forwards(twin, prompts)
    states = true.states
    depth = states.shape[1]
    layer = min(depth // 2, depth - 2)
    adapter = adapter_of(model, layer, states[:, layer].float(), dose=8.0 if name == "nano" else 2.0)
    pushes = [(layer, push) for push in adapter.push(states[:, layer])[0].to(dtype)]
    plain, steered = answers_of(model, prompts, [None] * len(prompts)), answers_of(model, prompts, pushes)
    limit = allowed_error((found.states, true.states), (found.logits, true.logits), steered[1:])
    return SimpleNamespace(
        model=model, prompts=prompts, prefix=shared_prefix(prompts), adapter=adapter, states=states,
        logits=true.logits, plain=(plain[0], plain[2]), steered=(steered[0], steered[2]), limit=limit,
    )  # fmt: skip


def answers_of(model, prompts: list[list[int]], pushes: list) -> tuple[list[Answer], torch.Tensor, torch.Tensor]:
    """`generate`'s answers, one prompt at a time; the logits of their first tokens, and the true ones."""
    answers, chosen_by, true = [], [], []
    for prompt, push in zip(prompts, pushes, strict=True):
        with one_push(model, *push) if push else contextlib.nullcontext():
            (answer,), logits = greedy(model, [prompt])
        with exact(model) as twin:
            true.append(full_logits(twin, prompt, [], push)[-1])
        answers.append(Answer(answer, model, prompt, push))
        chosen_by.append(logits[0, 0])
    return answers, torch.stack(chosen_by), torch.stack(true)


def adapter_of(model, layer: int, states: torch.Tensor, dose: float) -> ASAAdapter:
    """Three domains in a row along the main axis of states `[N, H]`, cut in the widest gaps, far from every state.

    The largest is always pushed up, the second down, and the smallest is left alone.
    """
    axis = torch.linalg.svd(states - states.mean(0)).Vh[0]
    along = (states @ axis).sort().values
    cuts = along.diff().topk(2).indices.sort().values
    low, high = (along[cuts] + along[cuts + 1]) / 2
    sizes = torch.tensor([0, *(cuts + 1), len(states)]).diff()
    need = torch.zeros(3)
    need[sizes.argsort(descending=True)] = torch.tensor([3.0, -3.0, 0.0])
    arrays = {
        "weight": torch.stack([0 * axis, axis, 2 * axis, *[0 * axis] * 3]),
        "bias": torch.cat([torch.stack([0 * low, -low, -low - high]), need]),
        "vectors": normalize(torch.randn(3, states.shape[1], generator=torch.Generator().manual_seed(1))),
    }
    alpha = dose * states.norm(dim=1).mean().item()
    config = {"layer": layer, "alpha": alpha, "dose": dose, "tau": 0.8, "domains": ["a", "b", "c"]}
    return ASAAdapter(config | {"model": fingerprint(model)}, arrays)


def greedy(model, prompts: list[list[int]], **options) -> tuple[list[list[int]], torch.Tensor]:
    """Answers of `NEW` tokens to prompts padded on the left, and the logits they were chosen by; nothing ends one."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, max_new_tokens=NEW, eos_token_id=model.config.vocab_size,
        pad_token_id=PAD, return_dict_in_generate=True, output_logits=True, **options,
    )  # fmt: skip
    return out.sequences[:, longest:].tolist(), torch.stack(out.logits, dim=1)


def never(_answer: list[int]) -> bool:
    return False


def assert_same_answers(found: list[list[int]], expected: list[Answer]) -> None:
    """Token for token, up to a tie."""
    assert found == expected
    assert sum(list(one) != list(two) for one, two in zip(found, expected, strict=True)) <= len(found) // 2


def assert_equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    """No bit differs."""
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def held(kv: DynamicCache) -> list[torch.Tensor]:
    """What a cache holds, copied; the room behind its tokens is scratch."""
    parts = [vars(layer).get("conv_states") or {0: layer.keys, 1: layer.values} for layer in kv.layers]
    used = [slice(vars(layer).get("length")) for layer in kv.layers]
    return [
        (tensor if tensor.dim() == 3 else tensor[:, :, here]).clone()
        for part, here in zip(parts, used, strict=True)
        for tensor in part.values()
        if tensor is not None
    ]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=["cf", "fccf", "ccfccfcc", "ccfccfccfcfcfcfc", "nano"])  # c: convolution, f: full attention
def name(request) -> str:
    return request.param


@pytest.fixture
def case(name, dtype) -> SimpleNamespace:
    return case_of(name, dtype)


@pytest.fixture
def batch(case) -> Batch:
    """All prompts side by side, prefilled in buckets of equal length."""
    (batch,) = Engine(case.model, case.prefix).batches(case.prompts, "test")
    return batch


@pytest.fixture
def small() -> SimpleNamespace:
    """The smallest hybrid in which a push is carried on, for what depends on neither pattern nor dtype."""
    return case_of("fccf", torch.float32)


def test_the_cases_can_show_a_fault(name):
    """Prompts differ by more than rounding, every gate and domain occurs, and pushes, they alone, change answers."""
    case = case_of(name, torch.float32)
    for row, state in enumerate(case.states[:, -1]):
        others = torch.cat([case.states[:row, -1], case.states[row + 1 :, -1]])
        assert error(others, state).min() > 100 * case.limit
    decisions = case.adapter.push(case.states[:, case.adapter.layer])[1]
    assert {d.gate for d in decisions} == {-1, 0, 1} and {d.domain for d in decisions} == set("abc")
    moved = [row for row, d in enumerate(decisions) if case.plain[0][row] != case.steered[0][row]]
    assert len(moved) > 1 and all(decisions[row].gate for row in moved)


def test_truth_is_in_float64_throughout(name):
    """In two calls with a cache it comes to the same; one float32 anywhere would leave 1e-8."""
    case = case_of(name, torch.float32)
    kv = DynamicCache(config=case.model.config)
    with exact(case.model) as twin, torch.no_grad():
        twin(torch.tensor([case.prompts[0][:9]]), past_key_values=kv, use_cache=True)
        logits = twin(torch.tensor([case.prompts[0][9:]]), past_key_values=kv, use_cache=True).logits[0, -1]
    assert error(logits, case.logits[0]) < 1e-12


def test_answers_may_part_at_a_tie_only(small):
    """Where two tokens have the same score, whatever follows; nowhere else, and none may end early."""
    model, prompt = copy.deepcopy(small.model), small.prompts[0]
    (tokens,), _ = greedy(model, [prompt])
    other, third = (token for token in (398, 399) if token not in [*prompt, *tokens])
    answer = Answer(tokens, model, prompt)
    assert answer == list(tokens) and answer != [*tokens[:2], other] and answer != tokens[:2]
    model.lm_head.weight.data[other] = model.lm_head.weight[tokens[2]]
    answer = Answer(tokens, copy.deepcopy(model), prompt)
    assert answer == [*tokens[:2], other] and [*tokens[:2], other, third] == answer
    assert answer != [*tokens[:2], third] and answer != [tokens[0], other, *tokens[2:]]


def test_a_prefix_cache_equals_the_full_forward(case, batch, monkeypatch):
    """One prompt after the other, in three calls: prefix, own tokens, last token."""
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 1)
    for one in batch.engine.batches(case.prompts, "test"):
        assert_near(one.last_token().states, case.states[one.rows], case.limit)
        assert_near(one.last_token().logits, case.logits[one.rows], case.limit)


def test_buckets_equal_the_full_forward(case, batch):
    """Rows of one length are prefilled together and then stand beside rows of other lengths."""
    assert len(batch.rows) == len(case.prompts)
    assert_near(batch.last_token().states, case.states[batch.rows], case.limit)
    assert_near(batch.last_token().logits, case.logits[batch.rows], case.limit)


def first_logits(batch: Batch, push: tuple[int, torch.Tensor] | None) -> torch.Tensor:
    """The logits that `decode` chooses the first token by."""
    kept, run = [], Decoder._run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Decoder, "_run", lambda *args: kept.append(run(*args)) or kept[-1])
        batch.decode(1, never, push=push)
    return kept[0]


def test_replay_equals_a_hook(case, batch):
    """At every block: up to rounding a full forward with a hook, and to the bit decoding with that push."""
    read = batch.last_token()
    assert torch.equal(first_logits(batch, None), read.logits)
    for layer in range(read.states.shape[1]):
        state = case.states[:, layer].to(case.model.dtype)
        noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(layer)).to(state)
        push = normalize(noise, dim=1) * state.norm(dim=1, keepdim=True)
        replayed = batch.replay(layer, read.states[:, layer] + push[batch.rows])
        assert torch.equal(replayed, first_logits(batch, (layer, push[batch.rows])))
        for place, row in list(enumerate(batch.rows))[layer % 2 :: 2]:  # half of them, to be fast
            with exact(case.model) as twin, one_push(twin, layer, push[row]):
                _, hooked = last_token(twin, case.prompts[row])
            assert_near(replayed[place], hooked, case.limit)
            assert error(case.logits[row], hooked) > case.limit  # what is compared does matter


def test_a_replay_changes_no_cache(case, batch):
    """Nor does decoding, and the unchanged state replays to the same logits, bit for bit, whatever came before."""
    read, engine = batch.last_token(), batch.engine
    shared = [part for pair in engine.prefix_keys.layers.values() for part in pair]
    before = [part.clone() for part in [*shared, *held(engine.start), *held(batch.cache)]]
    for layer in range(read.states.shape[1]):
        batch.replay(layer, -read.states[:, layer])
        batch.decode(2, never, push=(layer, read.states[:, layer]))
        assert_equal([*shared, *held(engine.start), *held(batch.cache)], before)
        assert torch.equal(batch.replay(layer, read.states[:, layer]), read.logits)
    assert torch.equal(batch.last_token().states, read.states)


@pytest.mark.parametrize("way", ["plain", "steered"])
def test_batched_greedy_equals_generate(case, batch, way):
    """All rows at once against one `generate` a prompt, without a push and with the adapter's."""
    layer = case.adapter.layer
    push = (layer, case.adapter.push(batch.last_token().states[:, layer])[0]) if way == "steered" else None
    answers = batch.decode(NEW, never, push=push)
    expected, _ = vars(case)[way]
    assert_same_answers([answers[batch.rows.index(row)] for row in range(len(expected))], expected)


@pytest.mark.parametrize("way", ["left padding", "chunks", "prefix cache", "prefix cache, chunks"])
def test_one_shot_steering(case, way):
    """Every way of calling `generate` steers as a hook on the prompt alone does; alpha = 0 moves no bit of a logit."""
    prompts = case.prompts[:3] if "cache" in way else case.prompts
    options, prefix = {}, DynamicCache(config=case.model.config)
    if "chunks" in way:
        options["prefill_chunk_size"] = 4 if "cache" in way else len(prompts[0]) // 6
    with torch.no_grad():
        case.model(torch.tensor([case.prefix]), past_key_values=prefix, use_cache=True)
    before = held(prefix)

    def say() -> tuple[list[list[int]], torch.Tensor]:
        if "cache" in way:
            options["past_key_values"] = fork_cache(prefix, torch.zeros(len(prompts), dtype=torch.long))
        return greedy(case.model, prompts, **options)

    plain = say()[1]
    with ASAAdapter(case.adapter.config | {"alpha": 0.0}, case.adapter.arrays).steer(case.model):
        assert torch.equal(say()[1], plain)
    with case.adapter.steer(case.model) as trace:
        answers, logits = say()
    assert_equal(held(prefix), before)
    decisions = case.adapter.push(case.states[: len(prompts), case.adapter.layer])[1]
    assert [(d.domain, d.gate) for d in trace.decisions] == [(d.domain, d.gate) for d in decisions]
    expected, true = (part[: len(prompts)] for part in case.steered)
    assert_near(logits[:, 0], true, case.limit)
    assert_same_answers(answers, expected)


def test_chunks_by_hand(small):
    """All but the last before the `with`, the last inside it, is steered; a second chunk inside it is refused."""
    prompt, kv = torch.tensor([small.prompts[0]]), DynamicCache(config=small.model.config)
    with torch.no_grad():
        for chunk in (prompt[:, :9], prompt[:, 9:18]):
            small.model(chunk, past_key_values=kv, use_cache=True)
        with small.adapter.steer(small.model):
            logits = small.model(prompt[:, 18:], past_key_values=kv, use_cache=True).logits[0, -1]
        assert_near(logits, small.steered[1][0], small.limit)
        with small.adapter.steer(small.model), pytest.raises(ValueError, match=r"^a prompt's next chunk: prefill all"):
            kv = small.model(prompt[:, :9], use_cache=True).past_key_values
            small.model(prompt[:, 9:], past_key_values=kv, use_cache=True)


def test_a_used_cache_is_refused(small):
    """It holds the prompt already, and `generate` would give some other answer, unsteered, without an error."""
    kv = DynamicCache(config=small.model.config)
    with small.adapter.steer(small.model) as trace:
        assert greedy(small.model, small.prompts[:1], past_key_values=kv)[0] == small.steered[0][:1]
        with pytest.raises(ValueError, match=r"^the cache holds 30 tokens, the prompt 25: pass a fresh copy"):
            greedy(small.model, small.prompts[:1], past_key_values=kv)
    assert len(trace.decisions) == 1


PLACES = ["one device", "partly on disk", "offloaded"]


def dispatched(small, places: str, folder: Path):
    """A copy of the model that accelerate keeps elsewhere."""
    model, cpu = copy.deepcopy(small.model), torch.device("cpu")
    if places == "one device":
        return accelerate.dispatch_model(model, {"": cpu}, force_hooks=True)
    if places == "offloaded":
        return accelerate.cpu_offload(model, execution_device=cpu)
    device_map = {"model.embed_tokens": cpu, "model.rotary_emb": cpu, "model.embedding_norm": cpu, "lm_head": cpu}
    device_map |= {f"model.layers.{number}": "disk" if number % 2 else cpu for number in range(4)}
    return accelerate.dispatch_model(model, device_map, main_device=cpu, offload_dir=folder, force_hooks=True)


@pytest.mark.parametrize("places", PLACES)
def test_the_engine_under_accelerate(small, places, tmp_path):
    """Capture, replay and pushed decoding are those of the model undispatched; no hook stays.

    Weights that lie elsewhere in memory may be summed in another order, so that this holds up to rounding.
    """
    model = dispatched(small, places, tmp_path)
    before, found = hooks_of(model), []
    for one in (model, small.model):
        (batch,) = Engine(one, small.prefix).batches(small.prompts, "test")
        read = batch.last_token()
        hidden = [(layer, read.states[:, layer].flip(0)) for layer in range(4)]
        said = [
            Answer(answer, small.model, small.prompts[row], (layer, push))
            for layer, pushes in hidden
            for row, answer, push in zip(
                batch.rows, batch.decode(NEW, never, push=(layer, pushes)), pushes, strict=True
            )
        ]
        found.append((said, [read.states, read.logits, *(batch.replay(*push) for push in hidden)]))
    (answers, ours), (expected, theirs) = found
    assert answers == expected
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, small.limit)
    assert hooks_of(model) == before


@pytest.mark.parametrize("places", PLACES)
def test_steering_under_accelerate(small, places, tmp_path):
    """Answers are those of the model undispatched, inside the `with` and after it; no hook stays."""
    model = dispatched(small, places, tmp_path)
    before = hooks_of(model)
    with small.adapter.steer(model):
        assert greedy(model, small.prompts)[0] == small.steered[0]
    assert greedy(model, small.prompts)[0] == small.plain[0]
    assert hooks_of(model) == before


def compiled(model, part: str, way: str):
    """The model with one module compiled: wrapped, in place or by its forward; no compiler is needed."""
    module = model.get_submodule(part)
    if way == "in place":
        module.compile(backend="eager")
    elif way == "forward":
        module.forward = torch.compile(module.forward, backend="eager")
    elif part:
        model.set_submodule(part, torch.compile(module, backend="eager"))
    else:
        return torch.compile(model, backend="eager")
    return model


@pytest.mark.parametrize("way", ["wrapped", "in place", "forward"])
@pytest.mark.parametrize("part", ["", "model"])
def test_a_compiled_model_or_decoder_is_refused(small, part, way):
    """Its blocks' hooks would go unseen after the first run; by adapter and engine, before anything runs."""
    model = compiled(copy.deepcopy(small.model), part, way)
    refusal = "^a compiled model ignores hooks set later: "
    with pytest.raises(AdapterError, match=refusal + "steer the uncompiled one"), small.adapter.steer(model):
        pass
    with pytest.raises(ValueError, match=refusal + "give the engine the uncompiled one"):
        Engine(model, small.prefix)


@pytest.mark.parametrize("way", ["wrapped", "in place", "forward"])
def test_a_compiled_block_is_steered(small, way):
    """By adapter and engine, even if it ran before the hook was there; afterwards it says what it said."""
    layer = small.adapter.layer
    model = compiled(copy.deepcopy(small.model), f"model.layers.{layer}", way)
    assert greedy(model, small.prompts[:1])[0] == small.plain[0][:1] != small.steered[0][:1]
    with small.adapter.steer(model):
        assert greedy(model, small.prompts[:1])[0] == small.steered[0][:1]
    (batch,) = Engine(model, small.prefix).batches(small.prompts[:1], "test")
    push = small.adapter.push(batch.last_token().states[:, layer])[0]
    assert batch.decode(NEW, never, push=(layer, push)) == small.steered[0][:1]
    assert greedy(model, small.prompts[:1])[0] == small.plain[0][:1]


@pytest.mark.parametrize("chunk", [None, 16])
def test_what_generate_compiles_itself(small, chunk):
    """With a static cache, on a GPU: steering works, and where a compiled chunk would skip it, that is an error."""
    model, settings = copy.deepcopy(small.model), CompileConfig(backend="eager", mode=None)
    settings._compile_all_devices = True
    options = {"cache_implementation": "static", "compile_config": settings, "prefill_chunk_size": chunk}
    assert greedy(model, small.prompts[:1], **options)[0] == small.plain[0][:1]
    with small.adapter.steer(model):
        if chunk:
            with pytest.raises(
                AdapterError, match=r"^generate ran compiled code, unsteered: call it with disable_comp"
            ):
                greedy(model, small.prompts[:1], **options)
            options["disable_compile"] = True
        assert greedy(model, small.prompts[:1], **options)[0] == small.steered[0][:1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.shows("States that are not finite stop an answer in a sentence, before a token is chosen")
def test_states_that_are_not_finite_stop_an_answer(small, dtype, value):
    """By the layer's number and what to do, before a token is chosen; nothing is left behind."""
    model, layer = copy.deepcopy(small.model).to(dtype), small.adapter.layer
    decoder_layers(model)[layer].feed_forward.w2.weight.data[0, 0] = value
    before = hooks_of(model)
    with pytest.raises(ValueError, match=rf"^hidden states at layer {layer} are not finite: load the model in another"):
        with small.adapter.steer(model) as trace:
            greedy(model, small.prompts[:2])
    assert trace.decisions == [] and hooks_of(model) == before and "generate" not in vars(model)


def test_a_model_of_another_width_is_refused(small):
    """By both widths, before anything runs."""
    other = make_lfm2([KINDS[kind] for kind in "fccf"], hidden_size=64)
    with pytest.raises(AdapterError, match=r"^the adapter needs hidden_size 32 but the model has 64: load its own"):
        with small.adapter.steer(other):
            pass
