"""`asa serve` without vLLM: what it needs is said in one sentence, and the template it serves by is the model's."""

import sys

import pytest

import asa.__main__
import asa.app.serving
from asa.app.serving import bare_template, serve
from asa.models.templates import PROMPT_DATE

TOOL = {"type": "function", "function": {"name": "thermometer", "description": "", "parameters": {}}}


def test_vllm_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(asa.app.serving, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["asa", "serve", "--adapter", "outputs/asa_assets", "--port", "1"])
    assert asa.__main__.main() == 1
    assert capsys.readouterr().err.startswith("error: asa serve needs vLLM: pip install vllm")


def test_help_names_its_own_options(capsys):
    with pytest.raises(SystemExit) as ended:
        serve(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and "--adapter" in out and "vllm serve --help" in out


def test_a_template_lists_no_tools_of_its_own(tiny_tokenizer):
    """They stand in the prompt already; and its date is the fit's."""
    turns, given = [{"role": "user", "content": "Hi"}], {"tokenize": False, "add_generation_prompt": True}
    own = bare_template(tiny_tokenizer.get_chat_template())
    shown = tiny_tokenizer.apply_chat_template(turns, tools=[TOOL], chat_template=own, **given)
    assert shown == tiny_tokenizer.apply_chat_template(turns, **given)
    listed = bare_template("{{ tools | length if tools else 'none' }} {{ strftime_now('%Y') }}")
    said = tiny_tokenizer.apply_chat_template(turns, tools=[TOOL], chat_template=listed, **given)
    assert said == f"none {PROMPT_DATE:%Y}"
