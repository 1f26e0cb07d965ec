"""Valid calls with transformers' own generate: batches, left padding, beams, sampling."""

import pytest
import torch
from transformers import LogitsProcessor

from asa import valid_calls
from asa.models.profiles import EMBEDDED
from asa.models.prompts import Prompter
from asa.tools import check_call, load_tools, parse_tool_calls

TOOLS = load_tools("data/tools.json")
REQUESTS = ["What is 12 times 7?", "Translate this sentence into French: why is the sky blue?"]


class Opens(LogitsProcessor):
    """Makes every answer begin with the trigger."""

    def __init__(self, trigger, prompt):
        self.trigger, self.prompt = trigger, prompt

    def __call__(self, input_ids, scores):
        said = input_ids.shape[1] - self.prompt
        if said < len(self.trigger):
            scores = torch.full_like(scores, -torch.inf)
            scores[:, self.trigger[said]] = 0.0
        return scores


@pytest.mark.parametrize(
    "how",
    [{"do_sample": False}, {"do_sample": True}, {"num_beams": 3, "do_sample": False}],
    ids=["greedy", "sampled", "beams"],
)
def test_every_call_of_a_batch_is_valid_and_ends(tiny_llama, tokenizer, how):
    prompter = Prompter(tokenizer, EMBEDDED, TOOLS)
    tokenizer.padding_side = "left"
    inputs = tokenizer(
        [prompter.text(text) for text in REQUESTS], return_tensors="pt", padding=True, add_special_tokens=False
    )
    width = inputs["input_ids"].shape[1]
    trigger = tokenizer(EMBEDDED.trigger, add_special_tokens=False)["input_ids"]
    most = len(trigger) + 80
    processors = [Opens(trigger, width), valid_calls(tokenizer, TOOLS, EMBEDDED, max_new_tokens=most)]
    torch.manual_seed(0)
    with torch.no_grad():
        said = tiny_llama.generate(**inputs, max_new_tokens=most, logits_processor=processors, pad_token_id=0, **how)
    for ids in said[:, width:]:
        text = tokenizer.decode(ids)
        assert EMBEDDED.call_end in text
        calls = parse_tool_calls(text, TOOLS, EMBEDDED.markers)
        assert calls and all(check_call(call, TOOLS) == (True, True) for call in calls)
