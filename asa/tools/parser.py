"""Tool calls in a model's answer.

A model that calls a tool writes `<|tool_call_start|>[calculator(expression="0.25 * 200")]<|tool_call_end|>`:
Python-looking calls between two markers. Asked to, it writes JSON objects there instead. This module finds the blocks,
less what was only thought, and `reader` reads each. It knows no schemas.
"""

import re
from collections.abc import Collection

from asa.tools.calls import ToolCall, ToolCallError
from asa.tools.reader import CallReader

THOUGHT = r"<think>.*?(?:</think>|\Z)|(?P<prompted></think>)"


def parse_tool_calls(
    text: str,
    tools: Collection[str] | None = None,
    markers: tuple[str, str] = ("<|tool_call_start|>", "<|tool_call_end|>"),
) -> list[ToolCall]:
    """Return the tool calls in a model's answer, in order; an empty list where none was attempted.

    A block runs from a start marker to the first end marker, else to the next start marker or the end of the
    turn. What is not `spoken` is no call. An answer without blocks may end in a bare list of known tools.

    Args:
        text: What the model wrote, special tokens included.
        tools: Names of the known tools. If given, a call to any other tool is invalid.
        markers: What opens and closes a block; `("<tool_call>", "</tool_call>")` for some models.

    Raises:
        ToolCallError: There are blocks, but no valid call in them. An empty list `[]` is not an error.

    Example:
        >>> parse_tool_calls('<|tool_call_start|>[web_search(query="Oslo", limit=3)]<|tool_call_end|>Done.')
        [ToolCall(name='web_search', arguments={'query': 'Oslo', 'limit': 3})]
    """
    start, end = map(re.escape, markers)
    # thinking and blocks in one pattern: `<think>` as text in a call's argument is kept
    part = re.compile(rf"(?s)<think>.*?(?:</think>|\Z)|({start})(.*?)({end}|<\|im_end\|>|(?={start})|\Z)")
    blocks = [match for match in part.finditer(_unprompted(text, markers)) if match[1]]
    if not blocks:
        return _bare_calls(spoken(text), tools or (), markers[1])
    calls, problem = [], ""
    for block in blocks:
        reader = CallReader(block[2], tools, cut_off=not block[3])
        calls += reader.calls()
        problem = problem or reader.problem
    if problem and not calls:
        raise ToolCallError(f"no valid call: {problem}")
    return calls


def without_opening(text: str, opening: str) -> str:
    """Return the beginning of an answer less an end that may still become what opens a call.

    >>> without_opening("Let me see. <tool", "<tool_call>")
    'Let me see. '
    """
    beginnings = (opening[:size] for size in range(len(opening) - 1, 0, -1))
    return text.removesuffix(next(filter(text.endswith, beginnings), ""))


def spoken(text: str, markers: tuple[str, str] = ("", "")) -> str:
    """Return an answer without its thinking.

    Thinking is `<think>...</think>`, a `<think>` that is never closed to the end of the text, and everything up to a
    `</think>` that no `<think>` opened: the prompt did.

    Tags that stand in a call, between `markers`, are text.

    >>> spoken("hm</think>It is <think>or is it?</think>four.")
    'It is \\nfour.'
    """
    said = _unprompted(text, markers)  # a line break for a thought: no marker may arise across the gap
    return _thoughts(markers).sub(lambda found: found[0] if found["call"] else "\n", said)


def _thoughts(markers: tuple[str, str]) -> re.Pattern:
    """What is thought, and closed calls, which are not looked into."""
    start, end = map(re.escape, markers)
    call = rf"(?P<call>{start}(?:(?!{start}).)*?{end})" if all(markers) else "(?P<call>(?!))"
    return re.compile(rf"(?s){call}|{THOUGHT}")


def _unprompted(text: str, markers: tuple[str, str]) -> str:
    """Return what follows the last `</think>` that no `<think>` opened."""
    found = _thoughts(markers).finditer(text)
    return text[max((match.end() for match in found if match["prompted"]), default=0) :]


def _bare_calls(text: str, tools: Collection[str], end: str) -> list[ToolCall]:
    """Read a list of known tools that ends the text: models sometimes leave the markers out."""
    text = text.rstrip().removesuffix("<|im_end|>").rstrip().removesuffix(end)
    starts = [match.start() for match in re.finditer(r"\[\s*+([\w.-]++)\s*+\(", text) if match[1] in tools]
    found = (CallReader(text[start:], tools).calls() for start in starts[-3:])  # few: that is linear
    return next(filter(None, found), [])
