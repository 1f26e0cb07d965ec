"""The real size to work on: LFM2.5-1.2B's shape, prompts of the benchmark's lengths, and the engine's stages.

The shape is the published one; the weights and tokens are random. The same stages run on a model with data, to be
timed, and on one without, to be counted. Nothing is timed or counted here.
"""

import math
from types import SimpleNamespace

import numpy as np
import torch
from bench import ROOT  # noqa: F401  (importing it puts the checkout on the path)
from transformers import AutoModelForCausalLM, Lfm2Config

from asa.engine.batch import Batch
from asa.engine.engine import Engine

LAYER_TYPES = ["full_attention" if layer in (2, 5, 8, 10, 12, 14) else "conv" for layer in range(16)]
PREFIX = 276  # tokens of the tool list in Liquid's form, with the template around it
TAIL = 5  # tokens of the template behind a request
MEDIAN, MEAN, LONGEST = 15, 20.4, 180  # tokens of the benchmark's instructions


def real_config() -> Lfm2Config:
    """LFM2.5-1.2B's shape."""
    return Lfm2Config(
        vocab_size=65536, hidden_size=2048, intermediate_size=12288, block_auto_adjust_ff_dim=True,
        block_multiple_of=256, num_hidden_layers=16, layer_types=LAYER_TYPES, num_attention_heads=32,
        num_key_value_heads=8, conv_L_cache=3, conv_bias=False, norm_eps=1e-5, max_position_embeddings=128_000,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=1, eos_token_id=7,
    )  # fmt: skip


def make_model(config, dtype: torch.dtype, device: str):
    """A model of that shape in evaluation mode, with random weights or, on the meta device, none."""
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    if device == "meta":
        model._hf_hook = SimpleNamespace(execution_device=device)  # weights elsewhere: where the engine puts its inputs
    return model


def parameters_of(config) -> int:
    """How many parameters a model of that shape has; none is made."""
    return sum(parameter.numel() for parameter in make_model(config, torch.float32, "meta").parameters())


def draw_prompts(count: int, vocabulary: int) -> list[list[int]]:
    """Random prompts behind one prefix; lengths are log-normal, with the benchmark's median, mean and longest."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(math.log(MEDIAN), math.sqrt(2 * math.log(MEAN / MEDIAN)), count)
    prefix = rng.integers(8, vocabulary, PREFIX).tolist()
    own = np.clip(lengths.round().astype(int), 1, LONGEST) + TAIL
    return [prefix + rng.integers(8, vocabulary, length).tolist() for length in own]


class Work:
    """The engine's stages on one model, the same with and without data behind the tensors.

    Args:
        model: With weights or, to be counted, without.
        prompts: Token ids.
    """

    def __init__(self, model, prompts: list[list[int]]):
        self.model, self.prompts = model, prompts
        self.batches: list[Batch] = []
        self.states: list[torch.Tensor] = []

    def prefix(self) -> None:
        """Prefill the prefix."""
        self.engine = Engine(self.model, self.prompts[0][:PREFIX])

    def extract(self) -> None:
        """Prefill all prompts and read their last tokens as `states.read_batch` does."""
        self.batches, self.states = [], []
        self.batches = list(self.engine.batches(self.prompts, f"{len(self.prompts)} prompts"))
        for batch in self.batches:
            last = batch.last_token()
            last.logits.float().log_softmax(-1)
            self.states.append(last.states)

    def replay(self, layer: int) -> None:
        """One steering setting over all prompts."""
        for batch, states in zip(self.batches, self.states, strict=True):
            batch.replay(layer, states[:, layer]).argmax(-1)

    def decode(self, batches: list[Batch], limit: int, steps: int) -> None:
        """`steps` tokens for every row of `batches`, with room for `limit`."""
        for batch in batches:
            batch.decode(limit, lambda answer: len(answer) >= steps)
