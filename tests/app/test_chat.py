"""Chat: both answers, ended where the evaluation ends them, on whatever device the model takes its inputs."""

import copy
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import torch
from conftest import fit_adapter

from asa.app.chat import answer_twice
from asa.engine.calling import CallWriter
from asa.models.answers import AnswerRules, closing_test
from asa.models.profiles import EMBEDDED
from asa.models.prompts import Prompter
from asa.tools.definitions import load_tools

ROOT = Path(__file__).parents[2]
REQUEST = "What is 12 times 7?"
DOMAINS = {"math", "code", "search", "translation"}
PROFILE = replace(EMBEDDED, max_new_tokens=24, words_limit=24)


@pytest.fixture(scope="module")
def adapter(tiny_model, prompts):
    return fit_adapter(tiny_model, prompts).adapter


def prompter_of(tokenizer, **changes) -> Prompter:
    return Prompter(tokenizer, replace(PROFILE, **changes), load_tools(ROOT / "data" / "tools.json"))


def said(model, prompter: Prompter) -> list[int]:
    """The model's own greedy answer, whatever ends it."""
    ids = torch.tensor([prompter.ids(REQUEST)])
    mask = torch.ones_like(ids)
    limit = prompter.profile.max_new_tokens
    return model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=False)[0, ids.shape[1] :].tolist()


@pytest.mark.slow
def test_both_answers_are_the_models_own(tiny_model, tiny_tokenizer, adapter):
    """With the decision; nothing ends them early here."""
    prompter = prompter_of(tiny_tokenizer)
    found = answer_twice(tiny_model, prompter, adapter, REQUEST)
    assert (found.request, found.label) == (REQUEST, None)
    assert found.baseline == tiny_tokenizer.decode(said(tiny_model, prompter))
    with adapter.steer(tiny_model) as trace:
        assert found.steered == tiny_tokenizer.decode(said(tiny_model, prompter))
    assert [found.decision] == trace.decisions
    assert len(said(tiny_model, prompter)) > 8


def test_an_answer_ends_where_the_evaluation_ends_it(tiny_model, tiny_tokenizer, adapter):
    """At the profile's end of a turn, and words at their limit; `generate` knows of neither."""
    answer = said(tiny_model, prompter_of(tiny_tokenizer))
    texts = [tiny_tokenizer.decode(token) for token in answer]
    end = next(text for place, text in enumerate(texts) if place > 2 and text.isascii() and text not in texts[:place])
    for changes in ({"turn_end": end}, {"words_limit": 5}):
        prompter = prompter_of(tiny_tokenizer, **changes)
        closed = closing_test(tiny_tokenizer, tiny_model, prompter.profile)
        size = next(size for size in range(1, len(answer)) if closed(answer[:size]))
        found = answer_twice(tiny_model, prompter, adapter, REQUEST)
        assert found.baseline == tiny_tokenizer.decode(answer[:size])
        with adapter.steer(tiny_model):
            pushed = said(tiny_model, prompter)
        size = next((size for size in range(1, len(pushed)) if closed(pushed[:size])), len(pushed))
        assert found.steered == tiny_tokenizer.decode(pushed[:size])


def test_a_writer_leaves_words_and_writes_calls(tiny_model, tiny_tokenizer, adapter):
    """The baseline stays the model's own; what stands behind the trigger is the writer's, by the router's tools."""
    prompter = prompter_of(tiny_tokenizer)
    writer = CallWriter(tiny_model, prompter, AnswerRules(prompter, tiny_model))
    assert answer_twice(tiny_model, prompter, adapter, REQUEST, writer) == answer_twice(
        tiny_model, prompter, adapter, REQUEST
    )
    asked = []
    writer.write = lambda answers, requests, held: asked.append((answers, requests[0].text, held)) or [[0]]
    found = answer_twice(tiny_model, prompter, adapter, REQUEST, writer)
    ((_, text, (held,)),) = asked
    assert text == REQUEST and {prompter.tools[name].domain for name in held} in ({found.decision.domain}, DOMAINS)
    assert found.steered == tiny_tokenizer.decode([0])


@pytest.mark.slow
def test_an_offloaded_model_gets_its_inputs_where_it_runs(tiny_model, tiny_tokenizer, adapter):
    """Its own device is none."""
    model = accelerate.cpu_offload(copy.deepcopy(tiny_model), execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    prompter = prompter_of(tiny_tokenizer)
    assert answer_twice(model, prompter, adapter, REQUEST) == answer_twice(tiny_model, prompter, adapter, REQUEST)


def test_an_answer_that_begins_as_a_thought_is_shown_as_one(tiny_llama, tiny_tokenizer, prompts):
    """Where the prompt ends in `<think>`, nothing is said before the tag is closed, so no limit of words applies."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n", "assistant\n<think>\n")
    prompter = prompter_of(tokenizer, words_limit=5)
    found = answer_twice(tiny_llama, prompter, fit_adapter(tiny_llama, prompts).adapter, REQUEST)
    assert prompter.opened == "<think>"
    assert found.baseline == "<think>" + tokenizer.decode(said(tiny_llama, prompter))
    assert len(said(tiny_llama, prompter)) > 5
