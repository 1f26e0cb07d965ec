"""Model folders: one that cannot be used is refused by what is wrong with it, and runs no code of its own."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import make_llama, refusal
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from asa.models.loading import load_model
from asa.models.profiles import LFM25

pytestmark = pytest.mark.usefixtures("own_machine")


@pytest.fixture
def folder(tiny_folder, tmp_path, on_cpu):
    """A copy of the tiny model's folder, to be spoilt."""
    return shutil.copytree(tiny_folder, tmp_path / "spoilt")


POINTER = (
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
)
AGAIN = "get the file again."
WHOLE = "get all files again."


def edit_config(**changes):
    """A spoiler that changes fields of config.json."""

    def spoil(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return spoil


def edit_weights(change):
    """A spoiler that changes the weights by name."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def only(**files):
    """A spoiler that leaves nothing but these files; `_` stands for the dot in a name."""

    def spoil(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)

    return spoil


def write(name: str, text: str):
    """A spoiler that writes one file."""
    return lambda folder: (folder / name).write_text(text)


def cut_short(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def in_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write("model.safetensors.index.json", json.dumps({"weight_map": {"a": "model-1.safetensors"}}))(folder)


def other_model(model):
    """A spoiler that puts another model into the folder."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        model().save_pretrained(folder)

    return spoil


SMALL = {"vocab_size": 400, "num_hidden_layers": 1}
BERT = BertConfig(**SMALL, hidden_size=32, num_attention_heads=4, intermediate_size=64)
T5 = T5Config(**SMALL, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
BART = BartConfig(
    vocab_size=400, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
)  # fmt: skip
GPT2 = GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=4)
SPOILT = {
    "weights are a pointer": (
        write("model.safetensors", POINTER),
        f"model.safetensors is a git-LFS pointer in place of the file (`git lfs pull` fetches it); {AGAIN}",
    ),
    "tokenizer is a pointer": (
        write("tokenizer.json", POINTER),
        f"tokenizer.json is a git-LFS pointer in place of the file (`git lfs pull` fetches it); {AGAIN}",
    ),
    "config is a pointer": (
        write("config.json", POINTER),
        f"config.json is a git-LFS pointer in place of the file (`git lfs pull` fetches it); {AGAIN}",
    ),
    "weights cut short": (cut_short, f"model.safetensors is damaged or cut short; {AGAIN}"),
    "weights empty": (write("model.safetensors", ""), f"model.safetensors is damaged or cut short; {AGAIN}"),
    "config no JSON": (write("config.json", "{"), f"config.json is not JSON; {AGAIN}"),
    "config a list": (write("config.json", "[]"), f"config.json holds no JSON object; {AGAIN}"),
    "config without type": (write("config.json", "{}"), f"config.json names no model_type; {AGAIN}"),
    "tokenizer no JSON": (write("tokenizer.json", "{"), f"tokenizer.json is not JSON; {AGAIN}"),
    "index a list": (
        lambda folder: (in_shards(folder), write("model.safetensors.index.json", "[]")(folder)),
        f"model.safetensors.index.json holds no JSON object; {AGAIN}",
    ),
    "index of nothing": (
        lambda folder: (in_shards(folder), write("model.safetensors.index.json", "{}")(folder)),
        f"model.safetensors.index.json names no weights; {AGAIN}",
    ),
    "shard missing": (
        in_shards,
        f"model-1.safetensors, which model.safetensors.index.json names, is missing; {WHOLE}",
    ),
    "nothing there": (only(), "config.json is missing; give a folder that holds a model."),
    "PEFT adapter": (
        only(adapter_config__json='{"base_model_name_or_path": "owner/name", "peft_type": "LORA"}'),
        "it holds a PEFT adapter and no model; merge the adapter into its model and give that folder.",
    ),
    "GGUF": (only(model__gguf="GGUF"), "it holds a GGUF file only; give the folder of the model in safetensors form."),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        f"it holds no weights, such as model.safetensors; {WHOLE}",
    ),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        f"it holds no tokenizer, such as tokenizer.json; {WHOLE}",
    ),
    "unknown type": (
        edit_config(model_type="lfm9"),
        "its config cannot be used (ValueError: The checkpoint you are trying to load has model type `lfm9` but "
        "Transformers does not recognize this architecture); mend that, or choose another model.",
    ),
    "own code": (
        edit_config(model_type="lfm9", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}),
        "it asks for code of its own, which is never run; choose a model that transformers knows.",
    ),
    "other shapes": (
        edit_config(intermediate_size=96),
        "its weights do not have the shapes that config.json gives them; get both from one model.",
    ),
    "a weight missing": (
        edit_weights(lambda weights: weights.pop("model.layers.1.feed_forward.w2.weight")),
        "its weights lack model.layers.1.feed_forward.w2.weight; get all files again, from one model.",
    ),
    "layers missing": (
        edit_config(num_hidden_layers=7, layer_types=["conv"] * 2 + ["full_attention", "conv"] * 2 + ["conv"]),
        "its weights lack model.layers.6.conv.conv.weight and 7 more; get all files again, from one model.",
    ),
    "sequence to sequence": (
        other_model(lambda: T5ForConditionalGeneration(T5)),
        "it has an encoder; choose a causal language model.",
    ),
    "a decoder with an encoder": (
        other_model(lambda: BartForConditionalGeneration(BART)),
        "it has an encoder; choose a causal language model.",
    ),
    "encoder": (
        other_model(lambda: BertForMaskedLM(BERT)),
        " (bert) reads a text in both directions: choose a model of another family.",
    ),
    "other blocks": (
        other_model(lambda: GPT2LMHeadModel(GPT2)),
        " (gpt2) does not have its blocks where the engine looks for them: choose a model of another family.",
    ),
    "smaller vocabulary": (
        other_model(lambda: make_llama(vocab_size=300)),
        "its tokenizer has 400 tokens and its model 300; get all files again, from one model.",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SPOILT)
def test_a_folder_that_cannot_be_used_is_refused_by_what_is_wrong_with_it(folder, no_network, case):
    """And nobody is asked, whether there is a hub or not; a name inside may be a stranger's."""
    spoil, said = SPOILT[case]
    spoil(folder)
    for hub in (False, True):
        assert refusal(folder, hub=hub) == said


@pytest.mark.slow
def test_a_models_own_code_is_never_run(folder, monkeypatch):
    """Nor is the user asked whether to; where transformers knows the model its own code is passed over."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    edit_config(auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})(folder)
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    assert load_model(replace(LFM25, model_id=str(folder)), hub=False)[0].config.model_type == "lfm2"
    edit_config(model_type="lfm9")(folder)
    assert refusal(folder).startswith("it asks for code of its own")
    assert not (folder / "ran").exists()
