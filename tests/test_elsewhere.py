"""Elsewhere: what others build on `generate` is steered too: a text-generation pipeline, and a streamer."""

import copy
import warnings

import pytest
import torch
from conftest import fit_adapter, hooks_of
from peft import LoraConfig, get_peft_model
from transformers import TextStreamer, pipeline

REQUEST = [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.fixture(scope="module")
def adapter(tiny_model, prompts):
    return fit_adapter(tiny_model, prompts).adapter


def steered(adapter, model, tokenizer) -> tuple[str, list]:
    """By `generate` itself, and the decisions."""
    ids = tokenizer.apply_chat_template(REQUEST, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with adapter.steer(model) as trace:
        new = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), trace.decisions


def test_a_pipeline_is_steered(adapter, tiny_model, tiny_tokenizer):
    """Once per request, also of several."""
    said, (decision,) = steered(adapter, tiny_model, tiny_tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own defaults
        generate = pipeline("text-generation", model=tiny_model, tokenizer=tiny_tokenizer, device="cpu")
        with adapter.steer(tiny_model) as trace:
            found = generate([REQUEST, REQUEST], max_new_tokens=8, do_sample=False, return_full_text=False)
    assert [one[0]["generated_text"] for one in found] == [said, said]
    assert [one.gate for one in trace.decisions] == [decision.gate] * 2
    with torch.inference_mode():
        plain = generate(REQUEST, max_new_tokens=8, do_sample=False, return_full_text=False)
    assert decision.gate == 0 or plain[0]["generated_text"] != said


def test_a_streamer_is_given_the_steered_answer(adapter, tiny_model, tiny_tokenizer, capsys):
    said, _ = steered(adapter, tiny_model, tiny_tokenizer)
    ids = tiny_tokenizer.apply_chat_template(REQUEST, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    streamer = TextStreamer(tiny_tokenizer, skip_prompt=True, skip_special_tokens=True)
    with adapter.steer(tiny_model):
        tiny_model.generate(**ids, max_new_tokens=8, do_sample=False, streamer=streamer)
    assert capsys.readouterr().out.rstrip("\n") == said.rstrip("\n")


def test_an_adapter_beside_a_lora(adapter, tiny_model, tiny_tokenizer):
    """The gate reads the states that the trained model has; with LoRA off, the model's own. All is undone."""
    ids = tiny_tokenizer.apply_chat_template(REQUEST, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    both = get_peft_model(copy.deepcopy(tiny_model), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in both.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(0))

    def read() -> float:
        with torch.inference_mode():
            states = both(**ids, output_hidden_states=True).hidden_states[adapter.layer + 1][:, -1]
        return adapter.decide(states)[1].item()

    def decided() -> float:
        with adapter.steer(both) as trace:
            both.generate(**ids, max_new_tokens=4, do_sample=False)
        return trace.decisions[0].p_tool

    (own,) = steered(adapter, tiny_model, tiny_tokenizer)[1]
    trained, before = read(), hooks_of(both)  # reading leaves hooks of transformers' own
    assert decided() == pytest.approx(trained, abs=1e-4) and abs(trained - own.p_tool) > 1e-3
    with both.disable_adapter():
        assert decided() == pytest.approx(own.p_tool, abs=1e-4)
    assert hooks_of(both) == before


def test_lm_evaluation_harness_scores_the_steered_model(adapter, tiny_model, tiny_tokenizer):
    """What a task generates is what `generate` gives under the adapter, one decision per request of a padded batch."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def prompt(text: str) -> str:
        turn = [{"role": "user", "content": text}]
        return tiny_tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)

    texts = [prompt(text) for text in ("Why is the sky blue?", "What is 12 times 7, and why?")]
    options = {"until": [tiny_tokenizer.eos_token], "max_gen_toks": 8, "do_sample": False}
    asked = [
        Instance("generate_until", {}, (text, dict(options)), number, ("toy", number, 1))
        for number, text in enumerate(texts)
    ]
    harness = HFLM(pretrained=tiny_model, tokenizer=tiny_tokenizer, backend="causal", batch_size=2)
    with adapter.steer(tiny_model) as trace:
        found = harness.generate_until(asked, disable_tqdm=True)
    said, gates = [], []
    for text in texts:
        ids = tiny_tokenizer(text, return_tensors="pt", add_special_tokens=False)
        with adapter.steer(tiny_model) as alone:
            new = tiny_model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        said.append(tiny_tokenizer.decode(new, skip_special_tokens=True).split(tiny_tokenizer.eos_token)[0])
        gates += [decision.gate for decision in alone.decisions]
    assert found == said
    assert sorted(decision.gate for decision in trace.decisions) == sorted(gates)
