"""The hook: calls in which a row is not one request are refused, and wrappers steer the model inside.

What an answer is, and that it is pushed once, is in test_steering.py.
"""

import copy

import pytest
import torch
from conftest import fit_adapter, hooks_of, make_prompts
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import GenerationConfig

from asa import AdapterError, ASAAdapter
from asa.adapter.hook import BATCHING

FOUR = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
PACKED = r"^a row holds more than one request \(packed or paged\): steer a batch with one request per row\.$"


@pytest.fixture(scope="module")
def llama_adapter(tiny_llama, prompts) -> ASAAdapter:
    return fit_adapter(tiny_llama, prompts).adapter


def two_in_a_row() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Two prompts in one row, their positions, and the first one's length."""
    first, second = make_prompts((9, 14), prefix=3)
    positions = [*range(len(first)), *range(len(second))]
    return torch.tensor([first + second]), torch.tensor([positions]), len(first)


def block_diagonal(first: int, whole: int) -> torch.Tensor:
    """A mask `[1, 1, T, T]` in which two requests do not see each other."""
    mask = torch.ones(whole, whole, dtype=torch.bool).tril()
    mask[first:, :first] = False
    return mask[None, None]


def packings() -> dict[str, dict]:
    """Ways to say that a row holds two requests."""
    ids, positions, first = two_in_a_row()
    mask = block_diagonal(first, ids.shape[1])
    ends = torch.tensor([0, first, ids.shape[1]], dtype=torch.int32)
    return {
        "positions": {"position_ids": positions},
        "positions and a mask": {"position_ids": positions, "attention_mask": torch.ones_like(ids)},
        "positions, a single token first": {"position_ids": torch.cat([positions[:, :1], positions[:, :-1]], dim=1)},
        "a boolean mask": {"attention_mask": mask},
        "an additive mask": {"attention_mask": torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))},
        "flash attention's lengths": {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": first},
        "a state-space model's index": {"seq_idx": torch.zeros_like(ids)},
        "pages": {"cache": object()},
    }


@pytest.mark.parametrize("name", packings())
def test_packed_rows_are_refused(tiny_model, adapter, name):
    """In one sentence, before anything is decided, and nothing is left behind."""
    ids, before = two_in_a_row()[0], hooks_of(tiny_model)
    with pytest.raises(AdapterError, match=PACKED), adapter.steer(tiny_model) as trace:
        tiny_model(ids, **packings()[name])
    assert trace.decisions == [] and hooks_of(tiny_model) == before


def test_packed_rows_given_by_position_are_refused(tiny_llama, llama_adapter):
    ids, positions, _ = two_in_a_row()
    with pytest.raises(AdapterError, match=PACKED), llama_adapter.steer(tiny_llama):
        tiny_llama(ids, None, positions)


def test_packed_prompts_in_generate_are_refused(tiny_model, adapter):
    ids, positions, _ = two_in_a_row()
    with pytest.raises(AdapterError, match=PACKED), adapter.steer(tiny_model):
        tiny_model.generate(ids, position_ids=positions, **FOUR)


def test_one_request_per_row_is_steered_however_it_is_said(tiny_model, adapter):
    """Positions, masks of two and four dimensions, left padding with positions of its own: the same decision."""
    ids = torch.tensor([make_prompts((9,))[0]])
    causal = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()[None, None]
    places = torch.arange(ids.shape[1])[None]
    padded = torch.nn.functional.pad(ids, (5, 0))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (5, 0))
    ways = [
        (ids, {}),
        (ids, {"position_ids": places}),
        (ids, {"position_ids": places, "attention_mask": torch.ones_like(ids)}),
        (ids, {"attention_mask": causal}),
        (padded, {"attention_mask": mask, "position_ids": torch.nn.functional.pad(places, (5, 0), value=1)}),
    ]
    seen = []
    for row, more in ways:
        with adapter.steer(tiny_model) as trace, torch.no_grad():
            tiny_model(row, **more)
        seen += [(d.domain, d.gate, round(d.p_tool, 3)) for d in trace.decisions]
    assert len(seen) == len(ways) and len(set(seen)) == 1


def test_rows_of_different_length_without_a_mask_are_refused(tiny_model, adapter):
    """Nothing says which columns are padding."""
    ids = torch.tensor([make_prompts((9,))[0]] * 2)
    positions = torch.stack([torch.arange(ids.shape[1]), torch.arange(ids.shape[1]) - 4])
    with pytest.raises(AdapterError, match=r"^rows end at different positions and there is no attention_mask"):
        with adapter.steer(tiny_model):
            tiny_model(ids, position_ids=positions)


def test_a_cache_of_another_length_per_row(tiny_llama, llama_adapter):
    """Beginnings padded on the right stand in the cache: each request is decided as if alone, at its last token."""
    prompts = make_prompts((9, 5), prefix=20)
    longest = max(map(len, prompts)) - 1
    rows = [prompt[:-1] + [0] * (longest + 1 - len(prompt)) for prompt in prompts]
    mask = torch.tensor([[1] * (len(p) - 1) + [0] * (longest + 1 - len(p)) for p in prompts])
    with torch.no_grad():
        cache = tiny_llama(torch.tensor(rows), attention_mask=mask, use_cache=True).past_key_values
        last = torch.tensor([[prompt[-1]] for prompt in prompts])
        places = torch.tensor([[len(prompt) - 1] for prompt in prompts])
        whole = torch.nn.functional.pad(mask, (0, 1), value=1)
        with llama_adapter.steer(tiny_llama) as together:
            tiny_llama(last, attention_mask=whole, position_ids=places, past_key_values=cache)
        with llama_adapter.steer(tiny_llama) as alone:
            for prompt in prompts:
                tiny_llama(torch.tensor([prompt]))
    for one, other in zip(together.decisions, alone.decisions, strict=True):
        assert (one.domain, one.gate) == (other.domain, other.gate) and abs(one.p_tool - other.p_tool) < 1e-3


@pytest.mark.parametrize("name", BATCHING)
def test_continuous_batching_is_refused(tiny_llama, llama_adapter, name):
    """It would leave one request alone and push the last at every token; afterwards the method is the model's own."""
    with pytest.raises(
        AdapterError, match=r"^continuous batching runs in pages, where a row holds more than one request"
    ):
        with llama_adapter.steer(tiny_llama):
            getattr(tiny_llama, name)()
    assert name not in vars(tiny_llama)


@pytest.mark.slow
def test_continuous_batching_that_runs_already_is_refused(tiny_llama, prompts, llama_adapter):
    """Its thread keeps errors to itself, so the `with` says it at its end; the requests say it too."""
    model, settings = copy.deepcopy(tiny_llama), GenerationConfig(**FOUR, eos_token_id=999, pad_token_id=0)
    with model.continuous_batching_context_manager(generation_config=settings) as manager:
        with pytest.raises(AdapterError, match=PACKED), llama_adapter.steer(model):
            manager.add_request(prompts[0], max_new_tokens=4)
            answer = None
            while answer is None:
                answer = manager.get_result(timeout=1)
            assert "more than one request" in answer.error


def test_an_error_that_was_caught_is_not_raised_again(tiny_model, adapter, prompts):
    """Whoever handles a refusal inside the `with` goes on."""
    ids, positions, _ = two_in_a_row()
    with adapter.steer(tiny_model) as trace:
        with pytest.raises(AdapterError, match=PACKED):
            tiny_model(ids, position_ids=positions)
        tiny_model.generate(torch.tensor(prompts[:1]), **FOUR)
    assert len(trace.decisions) == 1


# --- wrappers


class Wrapper(torch.nn.Module):
    """As training libraries wrap a model: another class, whose `generate` goes to the model inside."""

    def __init__(self, inner):
        super().__init__()
        self.policy = inner

    def forward(self, *args, **kwargs):
        return self.policy(*args, **kwargs)

    def generate(self, *args, **kwargs):
        return self.policy.generate(*args, **kwargs)


def lora(model):
    return get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))


@pytest.mark.parametrize("wrapped", [Wrapper, lora, lambda model: Wrapper(Wrapper(lora(model)))])
def test_a_wrapper_steers_the_model_inside(tiny_model, adapter, prompts, wrapped):
    """Answers and decisions are those of the model itself; afterwards nothing is left on either."""
    rows = torch.tensor([prompts[1], prompts[3]])
    with adapter.steer(tiny_model) as trace:
        expected = tiny_model.generate(rows, **FOUR)
    assert not torch.equal(expected, tiny_model.generate(rows, **FOUR))
    outer = wrapped(copy.deepcopy(tiny_model))
    before = hooks_of(outer)
    with adapter.steer(outer) as seen:
        assert torch.equal(outer.generate(input_ids=rows, **FOUR), expected)
    assert seen.decisions == trace.decisions and hooks_of(outer) == before
    assert torch.equal(outer.generate(input_ids=rows, **FOUR), tiny_model.generate(rows, **FOUR))


def test_a_wrapper_and_its_model_are_one(tiny_model, adapter):
    """So both cannot be steered at once."""
    with pytest.raises(AdapterError, match="being steered already"):
        with adapter.steer(Wrapper(tiny_model)), adapter.steer(tiny_model):
            pass


@pytest.mark.slow
def test_what_is_inside_a_compiled_wrapper_is_refused(tiny_model, adapter):
    """The wrapper's compiled code would not see the hooks."""
    with pytest.raises(AdapterError, match=r"^a compiled model ignores hooks"):
        with adapter.steer(torch.compile(Wrapper(tiny_model), backend="eager")):
            pass


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_refused(tiny_llama, llama_adapter, kind):
    """They shift the last prompt token."""
    outer = get_peft_model(copy.deepcopy(tiny_llama), kind(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(AdapterError, match="puts virtual tokens before every prompt"), llama_adapter.steer(outer):
        pass


class Holder:
    """As a pipeline: no module, but it has one."""

    def __init__(self, model):
        self.model = model


def test_what_is_no_model_is_refused(tiny_model, adapter):
    """By its name, and with what to pass."""
    for other, advice in (
        (Holder(tiny_model), r"generates: pass its \.model\.$"),
        (torch.nn.Linear(2, 2), "wraps none"),
    ):
        with pytest.raises(AdapterError, match=f"^{type(other).__name__} is no model .*{advice}"), adapter.steer(other):
            pass
