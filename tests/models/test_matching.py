"""Calls held to their grammar: the engine's decoder, a real tokenizer of bytes and specials, loops and limits."""

import pytest
import torch

from asa.models.matching import CallGrammar, GrammarError, token_table
from asa.models.profiles import EMBEDDED, LFM25
from asa.tools import check_call, parse_tool_calls, tools_from_json

TOOLS = tools_from_json(
    [
        {
            "name": "find",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 1, "maximum": 50}},
                "required": ["query"],
            },
        },
        {
            "name": "say",
            "parameters": {
                "type": "object",
                "properties": {"text": {"type": "string", "x-copy": True}},
                "required": ["text"],
            },
        },
    ],
    "test",
)
PROFILES = pytest.mark.parametrize("profile", [EMBEDDED, LFM25], ids=["words", "special token"])


def opened(tokenizer, profile, request="", tools=TOOLS, more=""):
    said = tokenizer(profile.trigger + more, add_special_tokens=False)["input_ids"]
    return CallGrammar(tokenizer, profile).begin(said, tools, request), said


def write(matcher, tokenizer, limit, scores):
    """What a model with these scores for every token, whatever came before, writes in `limit` tokens."""
    said = []
    while not matcher.ended and len(said) < limit:
        logits = scores()
        said.append(matcher.token(int(logits.argmax()), logits, limit - len(said)))
    return tokenizer.decode(said)


@PROFILES
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limit", [48, 90])
def test_whatever_a_model_wants_its_call_is_valid_and_ends(tokenizer, profile, seed, limit):
    matcher, _ = opened(tokenizer, profile, "Say it's late")
    generator = torch.Generator().manual_seed(seed)
    text = write(matcher, tokenizer, limit, lambda: torch.randn(len(tokenizer), generator=generator))
    assert matcher.ended and text.endswith(profile.call_end)
    calls = parse_tool_calls(profile.trigger + text, TOOLS, profile.markers)
    assert calls and all(check_call(call, TOOLS) == (True, True) for call in calls)


@PROFILES
def test_a_model_that_goes_round_in_circles_is_ended(tokenizer, profile):
    """It wants the same token for ever, inside a string."""
    matcher, _ = opened(tokenizer, profile)
    assert matcher.write('[find(query="')
    stuck = torch.zeros(len(tokenizer))
    stuck[tokenizer("a", add_special_tokens=False)["input_ids"][0]] = 9.0
    text = write(matcher, tokenizer, 40, lambda: stuck)
    (call,) = parse_tool_calls(f'{profile.trigger}[find(query="{text}', TOOLS, profile.markers)
    assert call.name == "find" and set(call.arguments["query"]) == {"a"}


def test_the_likeliest_token_is_taken_where_it_may_stand(tokenizer):
    matcher, _ = opened(tokenizer, EMBEDDED)
    wanted = tokenizer('[find(limit=5,query="tea")]</tool_call>', add_special_tokens=False)["input_ids"]
    for left, token in zip(range(len(wanted), 0, -1), wanted, strict=True):
        scores = torch.zeros(len(tokenizer))
        scores[token] = 1.0
        assert matcher.token(token, scores, left) == token
    assert matcher.ended


def test_a_copied_argument_is_a_span_of_the_request(tokenizer):
    for text, fits in [("it's", True), ("late", True), ("it's la", False), ("soon", False)]:
        matcher, _ = opened(tokenizer, EMBEDDED, "Say it's late")
        assert matcher.write(f'[say(text="{text}")]') == fits


def test_no_call_is_seen_in_words_or_thoughts(tokenizer):
    grammar = CallGrammar(tokenizer, EMBEDDED)
    for text in ("a > b", "<think><tool_call>", "tool_call>"):
        said = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert grammar.begin(said, TOOLS, "") is None
    assert grammar.begin(tokenizer("hm <tool_call>", add_special_tokens=False)["input_ids"], TOOLS, "") is not None


def test_a_table_is_made_once(tokenizer):
    assert token_table(tokenizer) is token_table(tokenizer)


def test_without_llguidance_it_says_what_to_install(tokenizer, monkeypatch):
    import copy
    import sys

    monkeypatch.setitem(sys.modules, "llguidance.hf", None)
    with pytest.raises(GrammarError, match="pip install llguidance"):
        token_table(copy.deepcopy(tokenizer))
