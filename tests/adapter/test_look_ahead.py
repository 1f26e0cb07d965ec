"""Looking ahead: pushed is only where gate and model disagree, in every way of calling the model, and in the engine.

The truth is each row's own: the unsteered answer where the model does what the gate wants, else what a plain one-shot
hook gives.
"""

import copy

import pytest
import torch
from conftest import fit_adapter, one_push
from families import RUN, WINDOW, make_family
from helpers import Answer
from steered import padded, said
from test_steering import cache_of
from transformers import DynamicCache

from asa import AdapterError, ASAAdapter
from asa.models.layout import decoder_layers


def first_tokens(model, prompts) -> list[int]:
    """The unsteered next token of every prompt."""
    with torch.no_grad():
        return [int(model(torch.tensor([prompt])).logits[0, -1].argmax()) for prompt in prompts]


def looking_for_one(adapter: ASAAdapter, tokens: list[int]) -> ASAAdapter:
    """An adapter that looks ahead for the token that occurs most often."""
    return ASAAdapter(
        adapter.config | {"look_ahead": True, "trigger_id": max(tokens, key=tokens.count)}, adapter.arrays
    )


def where_they_disagree(looking: ASAAdapter, states: torch.Tensor, tokens: list[int]) -> list[bool]:
    """Where gate and model do."""
    gates = [decision.gate for decision in looking.push(states)[1]]
    opens = [token == looking.config["trigger_id"] for token in tokens]
    return [gate == (-1 if opened else 1) for gate, opened in zip(gates, opens, strict=True)]


def true_answers(model, looking: ASAAdapter, states: torch.Tensor, prompts, pushed: list[bool]) -> list[Answer]:
    """What each row is to say."""
    delta, _ = looking.push(states)
    answers = []
    for prompt, row, moved in zip(prompts, delta, pushed, strict=True):
        row = row * moved
        with one_push(model, looking.layer, row):
            (answer,) = said(model, padded([prompt]))
        answers.append(Answer(answer, model, prompt, (looking.layer, row)))
    return answers


@pytest.fixture(scope="module")
def likeliest(tiny_model, prompts) -> list[int]:
    return first_tokens(tiny_model, prompts)


@pytest.fixture(scope="module")
def looking(adapter, likeliest) -> ASAAdapter:
    """For a token with which unsteered answers to requests of all gates begin."""
    return looking_for_one(adapter, likeliest)


@pytest.fixture(scope="module")
def pushed(looking, fitted, likeliest) -> list[bool]:
    return where_they_disagree(looking, fitted.states, likeliest)


@pytest.fixture(scope="module")
def expected(tiny_model, looking, fitted, prompts, pushed) -> list[Answer]:
    return true_answers(tiny_model, looking, fitted.states, prompts, pushed)


def doses(trace) -> list[bool]:
    """Which rows were pushed."""
    return [decision.dose > 0 for decision in trace.decisions]


def test_the_fixtures_can_show_a_fault(tiny_model, adapter, prompts, pushed, fitted, expected):
    """Some rows are pushed and some that the gate would push are not, and that makes a difference."""
    gates = [decision.gate for decision in adapter.push(fitted.states)[1]]
    left = [row for row, (gate, moved) in enumerate(zip(gates, pushed, strict=True)) if gate and not moved]
    assert any(pushed) and left
    with adapter.steer(tiny_model):
        always = said(tiny_model, padded(prompts))
    assert any(always[row] != expected[row] for row in left)


def test_a_batch(tiny_model, looking, prompts, pushed, expected):
    """Rows of different length side by side, padded on the left."""
    with looking.steer(tiny_model) as trace:
        assert said(tiny_model, padded(prompts)) == expected
    assert doses(trace) == pushed


@pytest.mark.parametrize(
    "options", [{}, {"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 3}]
)
def test_one_by_one(tiny_model, looking, prompts, pushed, expected, options):
    """Each call of generate is looked at anew: with every kind of cache, without one, in chunks."""
    with looking.steer(tiny_model) as trace:
        assert [said(tiny_model, padded([prompt]), **options)[0] for prompt in prompts] == expected
    assert doses(trace) == pushed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Qwen 2", "Mistral", "Gemma 3", "Qwen 3 MoE", "LFM2 MoE"])
@pytest.mark.shows("Looking ahead is exact behind sliding windows, convolution caches and experts")
def test_other_caches(name, prompts, tried):
    """Side by side and alone, prompts longer than the window."""
    model = make_family(*RUN[name])
    fitted, tokens = fit_adapter(model, prompts), first_tokens(model, prompts)
    looking = looking_for_one(fitted.adapter, tokens)
    pushed = where_they_disagree(looking, fitted.states, tokens)
    assert True in pushed and False in pushed and min(map(len, prompts)) > WINDOW
    expected = true_answers(model, looking, fitted.states, prompts, pushed)
    with looking.steer(model) as trace:
        assert said(model, padded(prompts)) == expected
        assert [said(model, padded([prompt]))[0] for prompt in prompts] == expected
    assert doses(trace) == pushed * 2
    tried(5, "families")


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"do_sample": True, "temperature": 2.0}], ids=["beams", "sample"]
)
def test_beams_and_samples(tiny_model, looking, fitted, prompts, pushed, options):
    """All of a row's beams are pushed alike, and what is looked at draws no random number."""
    delta, _ = looking.push(fitted.states)
    for row in (0, 1, 3, 5):
        with one_push(tiny_model, looking.layer, delta[row] * pushed[row]):
            torch.manual_seed(0)
            plain = said(tiny_model, padded([prompts[row]]), **options)
        with looking.steer(tiny_model) as trace:
            torch.manual_seed(0)
            assert said(tiny_model, padded([prompts[row]]), **options) == plain
        assert set(doses(trace)) == {pushed[row]}


@pytest.mark.parametrize("whole", [True, False])
def test_a_cache_of_the_beginning(tiny_model, looking, prompts, pushed, expected, whole):
    """Down to one token left; the cache that is given is filled, once."""
    rows = [1, 3, 8]  # of equal length
    same = [prompts[row] for row in rows]
    cache = cache_of(tiny_model, same, len(same[0]) - (5 if whole else 1))
    with looking.steer(tiny_model) as trace:
        assert said(tiny_model, padded(same), past_key_values=cache) == [expected[row] for row in rows]
    assert doses(trace) == [pushed[row] for row in rows]


def test_plain_forward_calls(tiny_model, looking, fitted, prompts, pushed):
    """A call brings the logits of all its tokens, and the cache goes on from them."""
    for row in (0, 1, 3):
        ids = torch.tensor([prompts[row]])
        delta = looking.push(fitted.states[row : row + 1])[0][0] * pushed[row]
        with torch.no_grad(), one_push(tiny_model, looking.layer, delta):
            truth = tiny_model(ids).logits
        cache = DynamicCache(config=tiny_model.config)
        with torch.no_grad(), looking.steer(tiny_model) as trace:
            seen = tiny_model(ids, past_key_values=cache)
            tiny_model(seen.logits[:, -1:].argmax(-1), past_key_values=cache)
        assert torch.allclose(seen.logits, truth, atol=1e-4, rtol=1e-4) and doses(trace) == [pushed[row]]
        assert cache.get_seq_length() == ids.shape[1] + 1


def test_hidden_states_of_the_whole_prompt(tiny_model, looking, prompts):
    """Where they are asked for, the prompt is run whole."""
    ids = torch.tensor([prompts[0]])
    given = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_hidden_states": True, "do_sample": False}
    with looking.steer(tiny_model):
        found = tiny_model.generate(ids, attention_mask=torch.ones_like(ids), **given)
    assert found.hidden_states[0][0].shape[1] == ids.shape[1]


def test_it_costs_a_token(tiny_model, looking, prompts):
    """The prompt is run up to its last token once, and that token twice."""
    widths: list[int] = []
    handle = decoder_layers(tiny_model)[0].register_forward_hook(lambda _m, _a, out: widths.append(width_of(out)))
    with looking.steer(tiny_model):
        said(tiny_model, padded([prompts[0]]), max_new_tokens=2, min_new_tokens=2)
    handle.remove()
    assert widths == [len(prompts[0]) - 1, 1, 1, 1]


def width_of(output) -> int:
    """Tokens of a block's output."""
    return (output if isinstance(output, torch.Tensor) else output[0]).shape[1]


def test_it_can_be_left_out_and_asked_for(tiny_model, adapter, looking, prompts, pushed):
    """`look_ahead` wins over what the adapter was fitted with."""
    gated = [decision.gate != 0 for decision in steered(tiny_model, looking, prompts, look_ahead=False)]
    assert gated != pushed and [d.dose > 0 for d in steered(tiny_model, looking, prompts, look_ahead=False)] == gated
    knowing = ASAAdapter(adapter.config | {"trigger_id": looking.config["trigger_id"]}, adapter.arrays)
    assert [d.dose > 0 for d in steered(tiny_model, knowing, prompts)] == gated
    assert [d.dose > 0 for d in steered(tiny_model, knowing, prompts, look_ahead=True)] == pushed


def steered(model, adapter, prompts, **options) -> list:
    """The decisions of one call."""
    with adapter.steer(model, **options) as trace:
        said(model, padded(prompts), max_new_tokens=1, min_new_tokens=1)
    return trace.decisions


def test_an_adapter_that_does_not_know_its_trigger(tiny_model, adapter):
    """It cannot look ahead, and says so."""
    with pytest.raises(AdapterError, match="which token opens a call"), adapter.steer(tiny_model, look_ahead=True):
        pass


def test_assisted_decoding_is_refused(tiny_model, looking, prompts):
    """Candidates stand behind the prompt there; the next call is looked at as ever."""
    helper = copy.deepcopy(tiny_model)
    with looking.steer(tiny_model):
        with pytest.raises(AdapterError, match="look_ahead=False"):
            said(tiny_model, padded([prompts[0]]), assistant_model=helper)
        said(tiny_model, padded([prompts[0]]))


def test_a_call_that_keeps_other_logits_or_gives_a_tuple(tiny_model, looking, prompts, pushed):
    """What is looked at is the last prompt token, whatever the caller wants to see."""
    for row in (0, 1, 3):
        ids = torch.tensor([prompts[row]])
        for options in ({"logits_to_keep": torch.tensor([0, 2])}, {"return_dict": False}, {"logits_to_keep": 3}):
            with torch.no_grad(), looking.steer(tiny_model) as trace:
                tiny_model(ids, **options)
            assert doses(trace) == [pushed[row]], options


def test_a_cache_that_cannot_be_copied_is_refused(tiny_model, looking, prompts):
    """As one that is moved between devices, whose streams cannot be."""

    class Moved(DynamicCache):
        def __deepcopy__(self, _known):
            raise TypeError("cannot pickle 'torch.Stream' object")

    with looking.steer(tiny_model):
        with pytest.raises(AdapterError, match=r"Moved cannot be copied .* look_ahead=False"):
            said(tiny_model, padded([prompts[0]]), past_key_values=Moved(config=tiny_model.config))
        said(tiny_model, padded([prompts[0]]))


@pytest.mark.parametrize(
    "facts",
    [{"look_ahead": "yes"}, {"look_ahead": True, "trigger_id": None}, {"trigger_id": "5"}, {"trigger_id": -7},
     {"trigger_id": True}, {"trigger_id": 10**9}],
)  # fmt: skip
def test_a_config_that_cannot_be_is_refused(adapter, facts):
    with pytest.raises(AdapterError, match="fit again"):
        ASAAdapter(adapter.config | facts, adapter.arrays)


def test_a_cache_with_gradients_is_refused(tiny_model, looking, prompts):
    """It cannot be copied."""
    cache, ids = DynamicCache(config=tiny_model.config), torch.tensor([prompts[0]])
    with torch.enable_grad():
        tiny_model(ids[:, :-1], past_key_values=cache)
        with looking.steer(tiny_model), pytest.raises(AdapterError, match="no_grad"):
            tiny_model(ids[:, -1:], past_key_values=cache)
