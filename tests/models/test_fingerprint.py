"""The fingerprint: the same weights in any precision pass, other weights do not, wherever they differ."""

import copy
import json
from pathlib import Path

import accelerate
import pytest
import torch
from conftest import make_lfm2, make_llama
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from asa.models.fingerprint import WEIGHTS_SAMPLED, fingerprint, model_difference, weights_key
from asa.models.layout import decoder_layers

NANO = Path(__file__).parents[1] / "nano" / "lfm2-nano"


@pytest.fixture(scope="module")
def nano():
    """A trained model: its weights are of the sizes that real ones have."""
    return AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32).eval()


def matrices(model) -> list[torch.nn.Parameter]:
    return [weight for block in decoder_layers(model) for weight in block.parameters() if weight.dim() > 1]


def rounded(model, bits: int, group: int):
    """A copy whose matrices lie on a grid of 2**bits values per group of neighbours, as quantisers round them."""
    model = copy.deepcopy(model)
    for weight in matrices(model):
        of = weight.data.view(-1, group) if weight.shape[-1] % group == 0 else weight.data.flatten(1)
        step = of.abs().amax(1, keepdim=True).clamp(min=1e-9) / (2 ** (bits - 1) - 1)
        weight.data = ((of / step).round() * step).view(weight.shape)
    return model


def noised(model, share: float, blocks: slice = slice(None), one: int | None = None):
    """A copy with noise of `share` of a matrix' spread in all matrices of some blocks, or in one of them."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    for block in decoder_layers(model)[blocks]:
        own = [weight for weight in block.parameters() if weight.dim() > 1]
        for weight in own if one is None else own[one : one + 1]:
            weight.data += share * weight.data.std() * torch.randn(weight.shape, generator=generator)
    return model


def said(model, expected) -> str:
    return model_difference(fingerprint(model), fingerprint(expected))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_another_dtype_is_the_same_model(nano, tiny_model, dtype):
    for model in (nano, tiny_model):
        assert said(copy.deepcopy(model).to(dtype), model) == ""
        assert said(model, copy.deepcopy(model).to(dtype)) == ""


@pytest.mark.parametrize(("bits", "group"), [(8, 32), (8, 96), (6, 32), (5, 32), (4, 32), (4, 48), (4, 96)])
def test_quantised_weights_are_the_same_model(nano, bits, group):
    """Whichever of the two is quantised."""
    assert said(rounded(nano, bits, group), nano) == ""
    assert said(nano, rounded(nano, bits, group)) == ""


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3, 1.0])
def test_a_sibling_is_another_model(nano, share):
    """The same embeddings, other blocks: all of them, the first, the last, or one matrix."""
    for other in (noised(nano, share), noised(nano, share, slice(0, 1)), noised(nano, share, slice(-1, None))):
        assert said(other, nano).startswith("was fitted on other weights (block ")
    for one in range(3):
        assert "other weights (block 4" in said(noised(nano, share, slice(4, 5), one), nano)


def test_a_sibling_of_quantised_weights_is_another_model(nano):
    """They allow for more, but not for this."""
    assert "other weights" in said(noised(nano, 0.3), rounded(nano, 4, 32))
    assert "other weights" in said(rounded(noised(nano, 0.3), 4, 32), nano)


def test_random_blocks_are_another_model(tiny_llama):
    """Of another seed, under the same embeddings."""
    other = make_llama(seed=1)
    other.set_input_embeddings(tiny_llama.get_input_embeddings())
    assert "other weights (block 0" in said(other, tiny_llama)


def test_a_block_of_other_parts(tiny_llama):
    other = copy.deepcopy(tiny_llama)
    decoder_layers(other)[2].mlp = torch.nn.Identity()
    assert "whose block 2 has other parts" in said(other, tiny_llama)


def test_offloaded_weights(nano):
    """They are on no device, and are the same model all the same; afterwards they are away again."""
    away = accelerate.cpu_offload(copy.deepcopy(nano), execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in matrices(away))
    assert fingerprint(away) == fingerprint(nano)
    assert all(weight.is_meta for weight in matrices(away))


class Packed(torch.nn.Module):
    """A linear map that keeps its weights as bytes, as quantisers do."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("bytes", linear.weight.detach().contiguous().view(torch.uint8))
        self.bias = linear.bias

    def forward(self, x):
        weight = self.bytes.view(torch.float32).view(self.out_features, self.in_features)
        return torch.nn.functional.linear(x, weight.to(x.dtype), self.bias)


def test_packed_weights_are_read_through_their_module(nano):
    """Sibling and same model are told apart there too."""

    def packed(model):
        model = copy.deepcopy(model)
        for name, module in list(decoder_layers(model).named_modules()):
            if isinstance(module, torch.nn.Linear):
                decoder_layers(model).set_submodule(name, Packed(module))
        return model

    assert said(packed(nano), nano) == ""
    assert "other weights" in said(packed(noised(nano, 0.3)), nano)


def test_a_lora_beside_the_weights_is_not_looked_at(tiny_llama):
    """One that was merged is another model."""
    lora = get_peft_model(copy.deepcopy(tiny_llama), LoraConfig(target_modules="all-linear", init_lora_weights=False))
    assert said(lora.get_base_model(), tiny_llama) == ""
    assert "other weights" in said(lora.merge_and_unload(), tiny_llama)


@pytest.mark.slow
def test_an_older_fingerprint_compares_what_it_has(tiny_lfm2):
    """Adapters of before kept shape and embeddings alone."""
    found = fingerprint(tiny_lfm2)
    older = {name: value for name, value in found.items() if name not in ("blocks", "coarse")}
    assert model_difference(found, older) == ""
    assert "embeddings differ" in model_difference(fingerprint(make_lfm2(seed=1)), older)


def test_it_is_plain_json_and_small(nano):
    found = fingerprint(nano)
    assert json.loads(json.dumps(found)) == found
    assert len(json.dumps(found)) < 10_000


@pytest.mark.parametrize(
    "part", ["model.layers.2.input_layernorm", "model.layers.0.post_attention_layernorm", "model.norm"]
)
def test_other_norms_are_another_model(tiny_llama, part):
    """They are few numbers, and scale all that a block says."""
    other = copy.deepcopy(tiny_llama)
    other.get_submodule(part).weight.data *= 1.5
    assert "other weights (" in said(other, tiny_llama)


def test_another_unembedding_is_another_model():
    """Where it is not the embedding again."""
    model = make_llama(tie_word_embeddings=False)
    other = copy.deepcopy(model)
    other.lm_head.weight.data.normal_(generator=torch.Generator().manual_seed(7))
    assert "final norm or unembedding" in said(other, model) and said(copy.deepcopy(model), model) == ""


def test_a_weights_key_tells_every_parameter_apart(tiny_model):
    """By one element of it, by all of them moved a hair, and by its name."""
    key, other = weights_key(tiny_model), copy.deepcopy(tiny_model)
    assert weights_key(other) == key and len(key) == 64
    for name, weight in other.named_parameters():
        kept = weight.data.clone()
        weight.data.view(-1)[0] += 1
        assert weights_key(other) != key, name
        weight.data = kept * (1 + 1e-6)
        assert weights_key(other) != key, name
        weight.data = kept
    assert weights_key(other) == key
    assert weights_key(torch.nn.ModuleDict({"model": other})) != key
    assert weights_key(copy.deepcopy(other).bfloat16()) != key


def test_a_weights_key_looks_into_all_parts_of_a_matrix():
    """No more than promised, and not into one column only, which even steps through 256 columns would be."""
    layer = torch.nn.Linear(256, 256, bias=False)
    key, seen = weights_key(layer), {}
    for side in (0, 1):
        for place in range(256):
            part = layer.weight.data.select(side, place)
            kept = part.clone()
            part += 1
            seen.setdefault(side, []).append(weights_key(layer) != key)
            part.copy_(kept)
    assert [sum(seen[side]) for side in (0, 1)] == [WEIGHTS_SAMPLED] * 2
    assert sum(seen[0][128:]) > 20


def test_a_weights_key_leaves_offloaded_weights_out(tiny_model):
    """They are elsewhere, and reading them all would be dear; what is here still counts."""
    first, second = (copy.deepcopy(tiny_model) for _ in range(2))
    first.get_decoder().layers[1].to("meta")
    for weight in second.get_decoder().layers[1].parameters():
        weight.data += 1
    assert weights_key(second) != weights_key(tiny_model)
    second.get_decoder().layers[1].to("meta")
    assert weights_key(first) == weights_key(second) != weights_key(tiny_model)
    second.get_decoder().layers[0].to("meta")
    assert weights_key(first) != weights_key(second)
