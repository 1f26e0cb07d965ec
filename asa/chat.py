"""Chat: one request, answered by the model's own `generate` without and with the adapter.

This is how an application uses the adapter: no engine, no prefix cache, just `with adapter.steer(model)`.
"""

import torch

from asa.adapter import ASAAdapter
from asa.demo import Comparison
from asa.prompts import Prompter


def answer_twice(model, prompter: Prompter, adapter: ASAAdapter, request: str) -> Comparison:
    """Answer `request` greedily, unsteered and steered."""
    ids = torch.tensor([prompter.ids(request)], device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    limit = {"max_new_tokens": prompter.profile.max_new_tokens, "do_sample": False}
    plain = model.generate(**inputs, **limit)
    with adapter.steer(model) as trace:
        steered = model.generate(**inputs, **limit)
    texts = [prompter.tokenizer.decode(answer[0, ids.shape[1] :]) for answer in (plain, steered)]
    return Comparison(request, None, *texts, trace.decisions[0])
