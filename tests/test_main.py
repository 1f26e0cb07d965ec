"""The command line: an adapter is scored from its folder alone, and what does not fit is refused in one sentence."""

import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import fit_adapter

import asa.__main__
from asa.profiles import choose_profile, profile_to_json
from asa.prompts import Prompter
from asa.tools import load_tools, tools_to_json

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(tiny_tokenizer, tiny_folder, monkeypatch):
    """What `pipeline.make_adapter` adds to a config, for the tiny model; no hub, and no GPU."""
    monkeypatch.setattr(asa.__main__, "hub_answers", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profile, _ = choose_profile(str(tiny_folder), hub=False, gpu=False)
    tools = load_tools(ROOT / "data" / "tools.json")
    key = Prompter(tiny_tokenizer, profile, tools).key()
    return {"profile": profile_to_json(profile), "tools": tools_to_json(tools), "prompt_hash": key}


@pytest.fixture
def score(tiny_lfm2, prompts, tmp_path, monkeypatch, capsys):
    """Run the command on an adapter with a config: (exit status, what it printed, what it printed as an error)."""

    def run(config: dict) -> tuple[int, str, str]:
        adapter = fit_adapter(tiny_lfm2, prompts, ("math", "code", "search", "translation")).adapter
        adapter.config |= config
        adapter.save(tmp_path / "assets")
        rows = [{"text": "What is 12 times 7?", "label": 1}, {"text": "Why is the sky blue?", "label": 0}]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ["--assets", str(tmp_path / "assets"), "--requests", str(tmp_path / "rows.jsonl"), "--json"]
        monkeypatch.setattr(sys, "argv", ["asa", "evaluate", *options])
        status = asa.__main__.main()
        return status, *capsys.readouterr()

    return run


def test_an_adapter_is_scored_on_the_prompt_it_was_fitted_with(score, config):
    status, out, _ = score(config)
    assert status == 0
    found = json.loads(out)
    assert found["n"] == 2
    assert all(found[run]["tp"] + found[run]["fn"] == 1 for run in ("baseline", "probe", "asa"))


@pytest.mark.parametrize("other", ["hash", "description"])
def test_another_prompt_than_the_fitted_one_is_refused(score, config, other):
    """The template is the same; what the tools say is not."""
    if other == "hash":
        config["prompt_hash"] = "0" * 16
    else:
        config["tools"][0]["description"] += " Use it often."
    status, out, error = score(config)
    last = error.strip().splitlines()[-1]
    assert (status, out) == (1, "")
    assert last.startswith(f"error: {config['profile']['model_id']}: expected the prompt that the adapter was ")
    assert f"({config['prompt_hash']})" in last and last.endswith("or fit again.")


def test_tools_that_are_none_are_refused(score, config, tmp_path):
    config["tools"][0]["name"] = "no identifier"
    status, out, error = score(config)
    assert (status, out) == (1, "")
    assert error.startswith(f"error: {tmp_path}/assets/config.json, entry 1: ") and error.count("\n") == 1
