"""Answer grammars: words stay free, and calls are held to the tools' schemas."""

from types import SimpleNamespace

import pytest

from asa.models.answer_grammar import AUTO, NONE, REQUIRED, answer_grammar
from asa.models.matching import token_table
from asa.tools.definitions import Tool, ToolsError

llguidance = pytest.importorskip("llguidance")
NOW = Tool("now", "", {"type": "object", "properties": {"zone": {"type": "string", "x-copy": True}}}, "time")
SPECIAL = SimpleNamespace(
    trigger="<|tool_call_start|>", call_end="<|tool_call_end|>", markers=("<|tool_call_start|>", "<|tool_call_end|>")
)
PLAIN = SimpleNamespace(trigger="<tool_call>", call_end="</tool_call>", markers=("<tool_call>", "</tool_call>"))


def read(tokenizer, grammar: str, text: str) -> tuple[bool, bool]:
    """(whether all of it may be written, whether it may end there)."""
    table = token_table(tokenizer)
    assert llguidance.LLMatcher.validate_grammar(grammar, table) == ""
    matcher, ids = llguidance.LLMatcher(table, grammar), table.tokenize_str(text, parse_special=True)
    taken = matcher.validate_tokens(ids)
    for token in ids[:taken]:
        matcher.consume_token(token)
    return taken == len(ids), matcher.is_accepting()


@pytest.mark.parametrize("profile", [SPECIAL, PLAIN], ids=["special", "letters"])
@pytest.mark.parametrize(
    ("answer", "text", "found"),
    [
        (AUTO, "", (True, True)),
        (AUTO, "It is noon, a < b.", (True, True)),
        (AUTO, "O[now()]C", (True, True)),
        (AUTO, "Let me see: O[now(), now()]C", (True, True)),
        (AUTO, "O[now(", (True, False)),
        (AUTO, "O[then()]C", (False, False)),
        (AUTO, "O[now()]C and", (False, True)),
        (REQUIRED, "O[now()]C", (True, True)),
        (REQUIRED, "It is", (False, False)),
        (NONE, "It is noon.", (True, True)),
        (NONE, "O[now()]C", (False, True)),
    ],
)
def test_what_an_answer_may_be(tiny_tokenizer, profile, answer, text, found):
    said = text.replace("O", profile.trigger).replace("C", profile.call_end)
    assert read(tiny_tokenizer, answer_grammar(tiny_tokenizer, profile, {"now": NOW}, answer), said) == found


def test_one_call_alone(tiny_tokenizer):
    grammar = answer_grammar(tiny_tokenizer, PLAIN, {"now": NOW}, most=1)
    assert read(tiny_tokenizer, grammar, "<tool_call>[now()]</tool_call>") == (True, True)
    assert not read(tiny_tokenizer, grammar, "<tool_call>[now(), now()]</tool_call>")[0]


def test_a_copy_is_of_the_request(tiny_tokenizer):
    grammar = answer_grammar(tiny_tokenizer, PLAIN, {"now": NOW}, request="the time in Oslo")
    assert read(tiny_tokenizer, grammar, '<tool_call>[now(zone="Oslo")]</tool_call>') == (True, True)
    assert not read(tiny_tokenizer, grammar, '<tool_call>[now(zone="Rome")]</tool_call>')[0]


def test_what_a_grammar_cannot_say_is_refused(tiny_tokenizer):
    odd = Tool("odd", "", {"type": "object", "properties": {"x": {"not": {}}}}, "odd")
    with pytest.raises(ToolsError, match="tool odd: a grammar cannot say not"):
        answer_grammar(tiny_tokenizer, PLAIN, {"odd": odd})
