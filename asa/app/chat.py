"""Chat: one request, answered by the model's own `generate` without and with the adapter.

This is how an application uses the adapter: no engine, no prefix cache, just `with adapter.steer(model)`. An answer
ends where the evaluation ends it, also where the model has no token for that. Steered calls are held to the tools'
grammar where there is a writer.
"""

from collections.abc import Callable

import torch

from asa.adapter import ASAAdapter
from asa.data.requests import Request
from asa.engine.calling import CallWriter
from asa.evaluation.comparisons import Comparison
from asa.method.tool_choice import ROUTED, held_tools
from asa.models.answers import AnswerRules
from asa.models.fitting import fitting_prompts
from asa.models.layout import CausalModel, input_device
from asa.models.prompts import Prompter


def answer_twice(
    model: CausalModel, prompter: Prompter, adapter: ASAAdapter, request: str, writer: CallWriter | None = None
) -> Comparison:
    """Answer `request` greedily, unsteered and steered; `writer` writes the steered answer's call.

    Raises:
        PromptError: It cannot be put to the model.
        RequestsError: It is too long for the model.
    """
    asked = [Request(request, 0, "", "the request")]
    ids = torch.tensor(fitting_prompts(prompter, model, asked))
    ids = ids.to(input_device(model))
    rules = AnswerRules(prompter, model)

    def answer(ended: Callable[[list[int]], bool]) -> torch.Tensor:
        def stopped(sequences: torch.Tensor, _scores: object, **_more: object) -> torch.Tensor:
            return torch.tensor([ended(row[ids.shape[1] :].tolist()) for row in sequences], device=sequences.device)

        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "stopping_criteria": [stopped]}
        return model.generate(**inputs, max_new_tokens=rules.limit, do_sample=False)

    plain = answer(rules.ended)
    with adapter.steer(model) as trace:
        steered = answer(rules.ended if writer is None else rules.settled)  # the writer needs no more than the decision
    before, after = (said[0, ids.shape[1] :].tolist() for said in (plain, steered))
    decision = trace.decisions[0]
    if writer is not None:
        sure = adapter.config.get("tool_choice", {}).get("sure", 0.0)
        (after,) = writer.write([after], asked, [held_tools(ROUTED, writer.tools, decision, sure)])
    return Comparison(request, None, rules.text(before), rules.text(after), decision)
