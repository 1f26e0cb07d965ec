"""Adding: another tool is served as if the adapter had been fitted with it, and the given adapter stays."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import last_token, tiny_assistant
from small_prompts import TINY

import asa.app.commands
from asa.app.adding import with_more_tools
from asa.app.asking import AssistantError
from asa.app.assistant import Assistant
from asa.data.requests import Request, load_requests
from asa.method.directions import NECESSITY
from asa.models.facts import profile_facts
from asa.support.files import UserError
from asa.tools.definitions import load_tools, tools_from_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOOLS = load_tools(ROOT / "data" / "tools.json")
DOMAINS = [tool.domain for tool in TOOLS.values()]
MORE = {"weather": load_tools(ROOT / "docs" / "own_tools" / "tools.json")["weather"]}


def some(path: str, domains: list[str], count: int) -> list[Request]:
    """`count` of each label and domain."""
    given, taken = load_requests(ROOT / path, domains), []
    for domain in domains:
        for label in (1, 0):
            taken += [request for request in given if (request.domain, request.label) == (domain, label)][:count]
    return taken


KNOWN = some("data/requests.jsonl", DOMAINS, 6)
OWN = some("docs/own_tools/requests.csv", ["weather", "calendar", "database"], 8)[:16]


@pytest.fixture(scope="module")
def assistant(tiny_model, tiny_tokenizer, prompts) -> Assistant:
    assistant = tiny_assistant(tiny_model, tiny_tokenizer, prompts)
    assistant.adapter.config |= {
        "direction": NECESSITY,
        "test": {"asa": {"f1": 1.0}},
        "benchmark": "alpaca",
        "tool_choice": {"choice": "routed", "sure": 0.0},
    }
    return assistant


@pytest.fixture(scope="module")
def five(assistant) -> Assistant:
    return with_more_tools(assistant, MORE, OWN, KNOWN)


def test_the_new_tool_is_in_prompt_and_decisions(assistant, five):
    """With examples from its own requests; the setting stays, and nothing is claimed that was not tested."""
    assert five.adapter.domains == [*DOMAINS, "weather"] and assistant.adapter.domains == DOMAINS
    config, was = five.adapter.config, assistant.adapter.config
    assert [config[name] for name in ("layer", "dose", "beta", "tau", "tool_choice")] == [
        was[name] for name in ("layer", "dose", "beta", "tau", "tool_choice")
    ]
    assert not config.keys() & {"test", "valid", "calibration", "threshold", "benchmark"}
    assert config["added"] == ["weather"]
    assert config["prompt_hash"] == five.prompter.key() != assistant.prompter.key() and config["weighs_probes"]
    shown = tools_from_json(config["tools"], "config")
    assert [*shown] == [*TOOLS, "weather"] and len(shown["weather"].examples) == 2
    answer = five("Will it rain in Oslo?", tool_choice="weather")
    assert {call.name for call in answer.calls} == {"weather"} and answer.faults == ()


def test_it_decides_as_one_that_is_fitted_to_the_new_prompts(five):
    """Labels and domains of what it was fitted on are mostly read from plain forward passes over those prompts."""
    shown = five.tools["weather"].examples
    rows = [request for request in [*OWN, *KNOWN] if request.text not in {example.request for example in shown}]
    states = [last_token(five.model, five.prompter.ids(request.text))[0][five.adapter.layer] for request in rows]
    domain, p_tool, _ = five.adapter.decide(torch.stack(states))
    labels = np.array([request.label for request in rows])
    assert ((p_tool.numpy() >= 0.5) == labels).mean() > 0.6
    places = np.array([five.adapter.domains.index(request.domain) for request in rows])
    assert (domain.numpy() == places).mean() > 0.4  # of five
    assert five(rows[0].text, max_new_tokens=1).decision.p_tool == pytest.approx(p_tool[0].item(), abs=1e-3)


@pytest.mark.parametrize(
    ("more", "requests", "known", "said"),
    [
        ({"calculator": replace(MORE["weather"], name="calculator")}, OWN, KNOWN, "the adapter has calculator already"),
        ({"weather": replace(MORE["weather"], domain="math")}, OWN, KNOWN, "the adapter has math already"),
        (
            MORE,
            OWN,
            [r for r in KNOWN if r.label or r.domain != "code"],
            "code: no labelled request with label 0 is left",
        ),
    ],
    ids=["name", "domain", "one label"],
)
def test_what_cannot_be_added_is_named(assistant, more, requests, known, said):
    with pytest.raises(AssistantError, match=said):
        with_more_tools(assistant, more, requests, known)


def test_an_adapter_that_does_not_say_how_it_was_fitted_is_refused(assistant, monkeypatch):
    monkeypatch.delitem(assistant.adapter.config, "direction")
    with pytest.raises(AssistantError, match=r"the adapter.s config\.json has no direction: fit it again"):
        with_more_tools(assistant, MORE, OWN, KNOWN)


def test_the_new_adapter_finds_the_model_folder_from_where_it_stands(tmp_path):
    (tmp_path / "model").mkdir()
    facts = profile_facts(replace(TINY, model_id=str(tmp_path / "model")), str(tmp_path / "new" / "adapter"))
    assert facts["model_id"] == facts["profile"]["model_id"] == "../../model"


def test_where_it_cannot_be_written_is_said_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setattr(asa.app.commands, "_loaded", lambda given: pytest.fail("the adapter is loaded"))
    with pytest.raises(UserError, match=r"--out: .* is no folder that can be written"):
        asa.app.commands.add(argparse.Namespace(out=str(tmp_path / "file")))
