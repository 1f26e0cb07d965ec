"""Adapters that can be reckoned by hand, and what a model says when it is asked for a few tokens."""

import numpy as np
import torch
from conftest import HIDDEN, PAD

from asa import ASAAdapter

NEW = 8  # tokens of an answer


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


def agree(trace, adapter: ASAAdapter, states: torch.Tensor) -> bool:
    """Whether a trace holds one decision a row, those of `states`, in order."""
    _, decisions = adapter.push(states)
    return (
        [(d.domain, d.gate, d.layer, d.dose) for d in trace.decisions]
        == [(d.domain, d.gate, d.layer, d.dose) for d in decisions]
    ) and np.allclose([d.p_tool for d in trace.decisions], [d.p_tool for d in decisions], atol=1e-4)


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


def decides_by(adapter: ASAAdapter) -> tuple:
    """What an adapter's decisions depend on."""
    settings = {name: adapter.config[name] for name in ("layer", "alpha", "dose", "tau", "domains", "model")}
    settings |= {name: getattr(adapter, name) for name in ("look_ahead", "threshold", "weighs_probes")}
    return settings, {name: array.tolist() for name, array in adapter.arrays.items()}
