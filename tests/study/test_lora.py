"""LoRA: the loss is that of whole prompts, the model learns, the engine speaks with it, and nothing is left behind."""

import copy

import pytest
import torch
from conftest import EOS, hooks_of, make_gemma3, make_prompts
from helpers import assert_same_gradients
from truth import NothingInFloat32, doubled

from asa.engine.engine import Engine
from asa.models.fitting import shared_prefix
from asa.models.profiles import EMBEDDED, LFM25
from asa.models.prompts import Prompter
from asa.study.lora import RANK, STEP_ROWS, LoraRun, answer_loss, call_target, train_lora
from asa.tools.calls import ToolCall
from asa.tools.definitions import load_tools, tools_from_json
from asa.tools.parser import parse_tool_calls

pytestmark = pytest.mark.slow

CALL, WORDS = [5, 301, 302, 303, 6, EOS], [310, 311, 312, 313]
LIMIT = 8
FEW = {"epochs": 2, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def asked() -> list[list[int]]:
    """Eight prompts that share 40 tokens."""
    return make_prompts((4, 9, 6, 5, 9, 7, 3, 12), seed=3)


@pytest.fixture
def said() -> list[list[int]]:
    """What is to be said to them: a call to every other one."""
    return [CALL, WORDS] * 4


def whole_loss(model, prompts: list[list[int]], targets: list[list[int]]) -> torch.Tensor:
    """The same loss in its plainest form: every prompt alone, from its first token."""
    losses = []
    for prompt, target in zip(prompts, targets, strict=True):
        logits = model(input_ids=torch.tensor([prompt + target[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum"))
    return torch.stack(losses).sum() / sum(map(len, targets))


def gradients(model, loss: torch.Tensor) -> list[torch.Tensor]:
    """The loss, and its gradient by every weight that is trained."""
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(named) > 40 and all(".lora_" in name for name in named)
    return [loss, *torch.autograd.grad(loss, list(named.values()))]


@pytest.mark.parametrize("kind", ["llama", "lfm2", "gemma3"])
def test_loss_and_gradients_are_those_of_whole_prompts(tiny_models, asked, said, kind):
    """The shared part runs once for all rows, and is learnt through nevertheless."""
    model = make_gemma3(window=12) if kind == "gemma3" else tiny_models[kind]
    prefix = shared_prefix(asked)
    with train_lora(model, asked, said, seed=0, epochs=1, learning_rate=1e-2):
        found = gradients(model, answer_loss(model, prefix, [ids[len(prefix) :] for ids in asked], said))
        plain = gradients(model, whole_loss(model, asked, said))
        with NothingInFloat32():
            twin = doubled(model)
            true = gradients(twin, whole_loss(twin, asked, said))
    assert_same_gradients(found, plain, true)
    assert max(float(gradient.abs().max()) for gradient in true[1:]) > 1e-3


def test_it_learns_whom_to_call_for_and_the_engine_speaks_with_it(tiny_model, asked, said):
    """Answers are those of the model's own `generate`; a model that calls for every other prompt has read them."""

    def closed(ids: list[int]) -> bool:
        return ids[-1] in (EOS, WORDS[-1])

    def answers() -> list[list[int]]:
        engine = Engine(tiny_model, shared_prefix(asked))
        rows = [row for batch in engine.batches(asked, "test") for row in batch.rows]
        spoken = [ids for batch in engine.batches(asked, "test") for ids in batch.decode(LIMIT, closed)]
        return [spoken[rows.index(row)] for row in range(len(rows))]

    before = answers()
    with train_lora(tiny_model, asked, said, seed=0, epochs=80, learning_rate=2e-2) as run:
        assert answers() == said
        for prompt, answer in zip(asked, said, strict=True):
            ids = torch.tensor([prompt])
            out = tiny_model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=LIMIT,
                eos_token_id=[EOS, WORDS[-1]],
            )  # fmt: skip
            assert out[0, len(prompt) :].tolist() == answer
    assert run.steps == 80 and run.last_loss < run.first_loss / 10
    assert answers() == before != said


def test_the_model_is_what_it_was(tiny_model, asked, said):
    """Weights, the very same objects, what may be trained, module types, attributes, hooks; also behind an error."""

    def kept(model) -> tuple:
        weights = {name: (id(weight), weight.requires_grad, weight.grad) for name, weight in model.named_parameters()}
        modules = [(name, id(module), type(module), module.training) for name, module in model.named_modules()]
        return weights, modules, sorted(vars(model)), hooks_of(model), vars(model.config).copy()

    tiny_model.requires_grad_(True)
    next(tiny_model.parameters()).requires_grad_(False)
    try:
        before, values = kept(tiny_model), copy.deepcopy(tiny_model.state_dict())
        with pytest.raises(KeyError, match="in the with"), train_lora(tiny_model, asked, said, seed=0, **FEW):
            assert kept(tiny_model) != before
            raise KeyError("in the with")
        assert kept(tiny_model) == before
        bad = [[10**6], *said[1:]]  # no such token
        with pytest.raises(IndexError), train_lora(tiny_model, asked, bad, seed=0, **FEW):
            pass
        assert kept(tiny_model) == before
        for name, value in tiny_model.state_dict().items():
            assert torch.equal(value, values[name]), name
    finally:
        tiny_model.requires_grad_(True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_adapters_of_a_half_precision_model_are_fp32_and_learn(tiny_model, asked, said, dtype):
    """In fp16 themselves, they would be NaN after the first step; the engine speaks with them, and they go again."""
    model = copy.deepcopy(tiny_model).to(dtype)
    values = copy.deepcopy(model.state_dict())

    def trained(rate: float) -> tuple[dict[str, torch.Tensor], LoraRun, bool]:
        with train_lora(model, asked, said, seed=0, epochs=40, learning_rate=rate) as run:
            (batch,) = Engine(model, shared_prefix(asked)).batches(asked[:1], "test")
            weights = {name: w.detach().clone() for name, w in model.named_parameters() if ".lora_" in name}
            return weights, run, batch.decode(1, lambda ids: False) == [said[0][:1]]

    (start, *_), (end, run, calls) = trained(0.0), trained(1e-2)
    assert all(weight.dtype == torch.float32 and torch.isfinite(weight).all() for weight in end.values())
    assert not any(torch.equal(start[name], end[name]) for name in end)
    assert run.last_loss < run.first_loss / 2 and calls
    assert model.state_dict().keys() == values.keys()
    for name, value in model.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, values[name]), name


def test_small_gradients_of_an_fp16_model_are_not_lost(tiny_llama, asked, said):
    """Below 6e-8 there is nothing in fp16; the adapters' own gradients are fp32, but come through its states."""
    model = copy.deepcopy(tiny_llama).half()
    model.lm_head.weight.data *= 2.0**-20
    with train_lora(model, asked, said, seed=0, **FEW):
        seconds = [weight for name, weight in model.named_parameters() if ".lora_B" in name]
        assert seconds and all(weight.abs().max() > 0 for weight in seconds)


def test_a_loss_that_is_not_finite_is_an_error(tiny_llama, asked, said):
    """Rather than a rival that says nothing; the model is given back."""
    model = copy.deepcopy(tiny_llama)
    model.lm_head.weight.data[7] = float("nan")
    with pytest.raises(ValueError, match=r"^LoRA's loss is nan at step 1: load the model in another dtype"):
        with train_lora(model, asked, said, seed=0, **FEW):
            pass
    assert not any(".lora_" in name for name, _ in model.named_parameters())


def test_a_seed_gives_one_run(tiny_llama, asked, said):
    """Whatever the caller's random numbers are, and those are left alone."""

    def trained(seed: int, callers: int) -> tuple[dict[str, torch.Tensor], LoraRun]:
        torch.manual_seed(callers)
        expected = torch.rand(3)
        torch.manual_seed(callers)
        with train_lora(tiny_llama, asked, said, seed=seed, **FEW) as run:
            assert torch.equal(torch.rand(3), expected)
            return {name: w.detach().clone() for name, w in tiny_llama.named_parameters() if ".lora_" in name}, run

    (first, run), (second, again), (other, _) = trained(0, callers=5), trained(0, callers=6), trained(1, callers=5)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (run.first_loss, run.last_loss) == (again.first_loss, again.last_loss)
    assert not any(torch.allclose(first[name], other[name], atol=1e-3) for name in first if ".lora_A" in name)


def test_a_run_says_what_it_took(tiny_llama, said):
    """Rank 16 on the seven linear maps of each of the four blocks, and on nothing else."""
    many = make_prompts(tuple(range(2, 2 + STEP_ROWS + 1)), seed=4)
    shapes = [
        linear.weight.shape
        for name, linear in tiny_llama.named_modules()
        if isinstance(linear, torch.nn.Linear) and name != "lm_head"
    ]
    with train_lora(tiny_llama, many, [CALL] * len(many), seed=0, learning_rate=2e-4) as run:
        pass
    assert len(shapes) == 28
    assert run.parameters == sum(RANK * sum(shape) for shape in shapes)
    assert (run.bytes, run.steps) == (4 * run.parameters, 2)


@pytest.mark.parametrize("targets", [[CALL], [CALL, []]])
def test_targets_must_match_the_prompts(tiny_llama, asked, targets):
    with pytest.raises(ValueError, match="2 prompts need as many targets of a token or more"):
        with train_lora(tiny_llama, asked[:2], targets, seed=0, learning_rate=2e-4):
            pass


@pytest.mark.parametrize("profile", [EMBEDDED, LFM25])
def test_a_call_target_is_read_back_and_written_as_in_the_examples(tiny_tokenizer, profile):
    tools = load_tools("data/tools.json")
    prompter = Prompter(tiny_tokenizer, profile, tools)
    for tool in tools.values():
        ids = call_target('Say "hi" <|im_end|>, é!', tool, prompter)
        assert ids.count(EOS) == 1 and ids[-1] == EOS and ids[0] == prompter.trigger_id
        (call,) = parse_tool_calls(tiny_tokenizer.decode(ids[:-1]), markers=profile.markers)
        assert call.name == tool.name and 'Say "hi" < |im_end|>, é!' in call.arguments.values()


def test_a_call_targets_tokens_are_those_that_an_example_has(tiny_tokenizer):
    entry = {
        "name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
        "examples": [{"request": "2+2?", "arguments": {"q": "2+2?"}}],
    }  # fmt: skip
    tools = tools_from_json([entry], "here")
    prompter = Prompter(tiny_tokenizer, EMBEDDED, tools)
    target, prompt = call_target("2+2?", tools["look"], prompter), prompter.ids("x")
    assert any(prompt[place : place + len(target)] == target for place in range(len(prompt)))
    decoded = tiny_tokenizer.decode(target[:-1])
    assert parse_tool_calls(decoded, markers=EMBEDDED.markers) == [ToolCall("look", {"q": "2+2?"})]
