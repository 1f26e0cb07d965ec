"""Answer grammars: what a whole answer may be, words or a call, for a server that holds answers to a grammar itself.

Words stay free, and whether they turn into a call is the model's choice; from the trigger on, the call is held to the
tools' schemas. `matching` does the same within our own decoder.
"""

from collections.abc import Mapping
from typing import Any

from asa.languages.lark import escaped, lark
from asa.languages.trees import Text, Token, sequence
from asa.models.matching import marker
from asa.models.profiles import Profile
from asa.tools.definitions import Tool
from asa.tools.grammar import MOST_CALLS, call_language

AUTO, REQUIRED, NONE = "auto", "required", "none"


def answer_grammar(
    tokenizer: Any,
    profile: Profile,
    tools: Mapping[str, Tool],
    answer: str = AUTO,
    request: str | None = None,
    most: int = MOST_CALLS,
) -> str:
    """The Lark grammar of a whole answer, in llguidance's dialect.

    Args:
        tokenizer: Of the model.
        profile: What opens and closes a call.
        tools: The tools that may be called, by name; none where there is to be no call.
        answer: `auto`, words that may end in a call; `required`, a call; `none`, words.
        request: From which strings with `x-copy` take a span; None: they are any text.
        most: Calls in one answer.

    Raises:
        ToolsError: As `grammar.call_grammar`.
    """
    trigger = marker(tokenizer, profile.trigger)
    words = f"WORDS: {_words(trigger)}"
    if answer == NONE:
        return f"start: WORDS?\n{words}"
    call = call_language(tools, request=request, markers=profile.markers, most=most)
    closed = sequence(call, marker(tokenizer, profile.call_end))
    if answer == REQUIRED:
        return lark(sequence(trigger, closed))
    called = lark(closed).replace("start:", "call:", 1)
    if isinstance(trigger, Token):
        return f"start: WORDS? | WORDS? <[{trigger.number}]> call\n{words}\n{called}"
    # lazily: the trigger ends the words, however they went on
    return f"start: WORDS? | opened call\n{words}\nopened[lazy]: /(?s:.*){escaped(trigger.text)}/\n{called}"


def _words(trigger: Text | Token) -> str:
    """Any text that opens no call."""
    if isinstance(trigger, Token):
        return "/(?s:.+)/"
    return f"/(?s:.+)/ & ~/(?s:.*){escaped(trigger.text)}(?s:.*)/"
