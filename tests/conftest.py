"""Tiny models, a tokenizer and prompts, made on the fly: no hub, no downloads, seconds on a CPU.

The weights are drawn wide, so that states differ clearly between prompts, greedy answers vary, and a push of the size
of a state changes what is said. Models are shared by all tests: a test that changes one must put it back.
"""

import contextlib
import copy
import json
import os
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import small_prompts
import torch
from proofs import make_proof
from reliability import (  # noqa: F401 (hooks, and a fixture)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_terminal_summary,
    tried,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from asa.adapter import ASAAdapter
from asa.app.assistant import Assistant
from asa.method.directions import NECESSITY, fit_directions, mixed
from asa.method.probes import Readers, fit_readers
from asa.models.fingerprint import fingerprint
from asa.models.folders import ModelError
from asa.models.loading import hub_answers, load_model
from asa.models.profiles import EMBEDDED, GEMMA3, LFM25
from asa.models.prompts import Prompter
from asa.models.wheels import cache_folder
from asa.tools.definitions import domains_of, load_tools

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much on a busy machine

SPECIAL = [
    "<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|tool_call_start|>", "<|tool_call_end|>",
]  # fmt: skip
PAD, BOS, EOS = 0, 1, 4
VOCABULARY = 400
HIDDEN = 32
PREFIX = 40
SUFFIXES = (12, 5, 7, 5, 20, 2, 7, 31, 5, 3, 12, 9)  # tokens behind the prefix: unsorted, some equal
LFM2_LAYERS = ("conv", "conv", "full_attention", "conv", "full_attention", "conv")
CORPUS = [
    "You are a helpful assistant. You can use these tools: calculator, python_interpreter, web_search, translator.",
    'When a request needs a tool, answer only with <tool_call>[name(argument="value")]</tool_call>.',
    "What is 12 times 7? Calculate the sum of 3, 45 and 678. Run this code and print the result.",
    "Search the web for today's news. Translate this sentence into French. Explain why the sky is blue.",
    'system user assistant name description parameters type object properties string required {"query": "text"}',
]
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONVERTED = cache_folder() / GEMMA3.wheel.sha256[:16]  # the real Gemma 3, where it has been loaded before


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The quick loop runs on several cores, with pytest-xdist; the slow tests need the cores themselves."""
    option, worker = config.option, hasattr(config, "workerinput")
    if worker or option.markexpr != "not slow" or not config.pluginmanager.hasplugin("xdist"):
        return
    alone = option.usepdb or option.trace or option.capture == "no" or option.reliability
    if option.numprocesses is None and not alone:
        option.numprocesses = min(4, os.cpu_count() or 1)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """With LFM2's special tokens."""
    return make_tokenizer(SPECIAL)


def make_tokenizer(special: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with the first five of `SPECIAL` or more, and SmolLM2's chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|startoftext|>", eos_token="<|im_end|>", pad_token="<|pad|>",
        additional_special_tokens=special, padding_side="left",
    )  # fmt: skip
    wrapped.chat_template = TEMPLATE
    assert (wrapped.pad_token_id, wrapped.bos_token_id, wrapped.eos_token_id) == (PAD, BOS, EOS)
    assert len(wrapped) == VOCABULARY
    return wrapped


@pytest.fixture
def tokenizer(tiny_tokenizer):
    """The tiny tokenizer with the template of `small_prompts`, free to be changed."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = small_prompts.TEMPLATE
    return tokenizer


def widened(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """`model` in evaluation mode with wide seeded weights; norms stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                gain = (
                    1.0 if "embed_tokens" in name or ".conv." in name else 1.5
                )  # a convolution multiplies three of them
                fan_in = 1 if "embed_tokens" in name else weight[0].numel()
                weight.copy_(torch.randn(weight.shape, generator=generator) * gain / fan_in**0.5)
    return model.eval()


def make_llama(seed: int = 0, **changes) -> PreTrainedModel:
    """Four layers of Llama, fp32."""
    config = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    }  # fmt: skip
    return widened(LlamaForCausalLM(LlamaConfig(**config | changes)), seed)


def make_lfm2(layers: tuple[str, ...] = LFM2_LAYERS, seed: int = 0, **changes) -> PreTrainedModel:
    """LFM2 of the given layers, fp32, embeddings tied as in the real one."""
    config = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 64, "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": len(layers), "layer_types": list(layers), "num_attention_heads": 4,
        "num_key_value_heads": 2, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    }  # fmt: skip
    return widened(Lfm2ForCausalLM(Lfm2Config(**config | changes)), seed)


def make_gemma3(window: int, seed: int = 0) -> PreTrainedModel:
    """Four layers of Gemma 3, fp32, all but the second with a sliding window of that many tokens."""
    config = Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8, sliding_window=window,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "sliding_attention"],
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip
    return widened(Gemma3ForCausalLM(config), seed)


@pytest.fixture(scope="session")
def tiny_llama() -> PreTrainedModel:
    return make_llama()


@pytest.fixture(scope="session")
def tiny_lfm2() -> PreTrainedModel:
    return make_lfm2()


@pytest.fixture(scope="session")
def tiny_models(tiny_llama, tiny_lfm2) -> dict[str, PreTrainedModel]:
    """Both models by name."""
    return {"llama": tiny_llama, "lfm2": tiny_lfm2}


@pytest.fixture(scope="session", params=["llama", "lfm2"])
def tiny_model(request, tiny_models) -> PreTrainedModel:
    """One model after the other."""
    return tiny_models[request.param]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_lfm2, tiny_tokenizer) -> Path:
    """A folder with the tiny LFM2 and its tokenizer, as `--profile FOLDER` takes it; by its name, LFM2.5's prompt."""
    folder = tmp_path_factory.mktemp("models") / "tiny-lfm2"
    tiny_lfm2.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


def make_prompts(suffixes: tuple[int, ...], seed: int = 0, prefix: int = PREFIX) -> list[list[int]]:
    """Random prompts of ordinary tokens that share their first `prefix` tokens and differ right behind them."""
    rng = random.Random(seed)
    ordinary = range(len(SPECIAL), VOCABULARY)
    shared = rng.choices(ordinary, k=prefix)
    starts = rng.sample(ordinary, k=len(suffixes))
    return [
        [*shared, start, *rng.choices(ordinary, k=length - 1)] for start, length in zip(starts, suffixes, strict=True)
    ]


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """12 prompts that share 40 tokens; their lengths are unsorted and several are equal."""
    return make_prompts(SUFFIXES)


@pytest.fixture(scope="session")
def small_requests(tmp_path_factory) -> Path:
    """Ten hand-written requests a domain and label: the smallest set with two of each in a split."""
    kept: dict[tuple, list[str]] = {}
    for line in (Path(__file__).parents[1] / "data" / "requests.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        kept.setdefault((row["domain"], row["label"]), []).append(line)
    path = tmp_path_factory.mktemp("small") / "small.jsonl"
    path.write_text("\n".join(line for lines in kept.values() for line in lines[:10]) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def one_push(model: PreTrainedModel, layer: int, delta: torch.Tensor, column: int = -1) -> Iterator[list[int]]:
    """Add `delta` to block `layer`'s output at one column, at its first call only; yields the calls' lengths.

    The plainest form of what engine and adapter do, written here once more so that they can be compared with it.
    """
    lengths: list[int] = []

    def hook(_module, _args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        lengths.append(hidden.shape[1])
        if len(lengths) > 1:
            return output
        changed = hidden.clone()
        changed[:, column] += delta
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = model.get_decoder().layers[layer].register_forward_hook(hook)
    try:
        yield lengths
    finally:
        handle.remove()


def hooks_of(model: PreTrainedModel) -> list[int]:
    """How many hooks every module of `model` carries."""
    return [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]


def last_token(model: PreTrainedModel, prompt: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """States `[layers, H]` behind every block and logits `[vocabulary]` at the last token, by a plain full forward."""
    states: list[torch.Tensor] = []

    def hook(_module, _args, output):
        states.append((output[0] if isinstance(output, tuple) else output)[0, -1].clone())

    handles = [block.register_forward_hook(hook) for block in model.get_decoder().layers]
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack(states), logits


@dataclass
class Fitted:
    """An adapter and what it was made of.

    Attributes:
        adapter: For the model's middle layer; its tau leaves a quarter of `prompts` alone.
        readers: Its scaler, router and probes.
        vectors: `[D, H]`.
        states: `[N, H]` of the fixture `prompts` at the adapter's layer.
    """

    adapter: ASAAdapter
    readers: Readers
    vectors: np.ndarray
    states: torch.Tensor


def fit_adapter(
    model: PreTrainedModel, prompts: list[list[int]], names: tuple[str, ...] = ("math", "code", "search")
) -> Fitted:
    """An adapter fitted to a model's own states of 60 prompts; its push is twice as long as a state.

    Domain and label are where a state lies along two random directions, so that they can be read and all occur.
    """
    layer = model.config.num_hidden_layers // 2
    fit = make_prompts(tuple(range(2, 32)) * 2, seed=1)
    states = torch.stack([last_token(model, prompt)[0][layer] for prompt in fit]).numpy()
    along = (states - states.mean(0)) / states.std(0) @ np.random.default_rng(2).standard_normal((states.shape[1], 2))
    place = np.argsort(np.argsort(along[:, 0])) * len(names) // len(fit)
    domains = [names[number] for number in place]
    labels = np.zeros(len(fit), int)
    for number in range(len(names)):
        here = place == number
        labels[here] = along[here, 1] > np.median(along[here, 1])
    readers = fit_readers(states, labels, domains, list(names), strength=0.1, own=1.0)
    vectors = mixed(fit_directions(NECESSITY, states, labels, domains, None, None, list(names)), 0.25, list(names))
    asked = torch.stack([last_token(model, prompt)[0][layer] for prompt in prompts])
    p_tool = readers.p_tool(asked.numpy())
    config = {
        "layer": layer, "L_star": layer, "alpha": 2 * readers.mean_norm, "dose": 2.0, "beta": 0.25,
        "tau": float(np.quantile(np.maximum(p_tool, 1 - p_tool), 0.25)), "domains": list(names),
        "weighs_probes": True, "model": fingerprint(model),
    }  # fmt: skip
    return Fitted(ASAAdapter.from_readers(readers, vectors, config), readers, vectors, asked)


def tiny_assistant(model, tokenizer, prompts, tools=None, **profile) -> Assistant:
    """An assistant whose adapter is `fit_adapter`'s; with the project's tools unless others are given."""
    tools = tools or load_tools(Path(__file__).parents[1] / "data" / "tools.json")
    adapter = fit_adapter(model, prompts, tuple(domains_of(tools))).adapter
    prompter = Prompter(tokenizer, replace(EMBEDDED, max_new_tokens=48, **profile), tools)
    return Assistant(adapter, model, prompter)


@pytest.fixture(scope="module")
def fitted(tiny_model, prompts) -> Fitted:
    return fit_adapter(tiny_model, prompts)


@pytest.fixture(scope="module")
def adapter(fitted) -> ASAAdapter:
    return fitted.adapter


@pytest.fixture
def proof() -> dict:
    return make_proof()[0]


@pytest.fixture
def own_machine(tmp_path, monkeypatch):
    """An empty cache folder, no proxy, no hub settings, and a hub that has not been asked yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    hub_answers.cache_clear()
    yield
    hub_answers.cache_clear()


def refusal(name, **options) -> str:
    """What `load_model` says about a model that it refuses, the name left out."""
    with pytest.raises(ModelError) as caught:
        load_model(replace(LFM25, model_id=str(name)), **{"hub": False} | options)
    said = str(caught.value)
    assert said.startswith(str(name)) and said.endswith(".") and "\n" not in said
    return said.removeprefix(str(name)).removeprefix(" cannot be loaded: ")


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks for an address or a connection fails the test."""
    for owner, name in ((socket.socket, "connect"), (socket, "create_connection"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, lambda *_args, **_options: pytest.fail("went to the network"))
