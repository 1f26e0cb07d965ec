"""Chat: one request, answered by the model's own `generate` without and with the adapter.

This is how an application uses the adapter: no engine, no prefix cache, just `with adapter.steer(model)`. An answer
ends where the evaluation ends it, also where the model has no token for that.
"""

import torch

from asa.adapter import ASAAdapter
from asa.data.requests import Request
from asa.evaluation.comparisons import Comparison
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts
from asa.models.layout import CausalModel, input_device
from asa.models.prompts import Prompter


def answer_twice(model: CausalModel, prompter: Prompter, adapter: ASAAdapter, request: str) -> Comparison:
    """Answer `request` greedily, unsteered and steered.

    Raises:
        PromptError: It cannot be put to the model.
        RequestsError: It is too long for the model.
    """
    ids = torch.tensor(fitting_prompts(prompter, model, [Request(request, 0, "", "the request")]))
    ids = ids.to(input_device(model))
    rules = AnswerRules(prompter, model)

    def ended(sequences: torch.Tensor, _scores: object, **_more: object) -> torch.Tensor:
        return torch.tensor([rules.ended(row[ids.shape[1] :].tolist()) for row in sequences], device=sequences.device)

    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "stopping_criteria": [ended]}
    limit = {"max_new_tokens": rules.limit, "do_sample": False}
    plain = model.generate(**inputs, **limit)
    with adapter.steer(model) as trace:
        steered = model.generate(**inputs, **limit)
    before, after = (rules.text(answer[0, ids.shape[1] :].tolist()) for answer in (plain, steered))
    return Comparison(request, None, before, after, trace.decisions[0])
