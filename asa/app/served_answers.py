"""Served answers: what an answer, or the beginning of one, says in words, and the calls in it that are closed."""

from collections.abc import Sequence
from dataclasses import dataclass

from asa.tools.calls import ToolCall, ToolCallError
from asa.tools.forms import written_name
from asa.tools.parser import parse_tool_calls, without_opening


@dataclass(frozen=True)
class Served:
    """An answer as a client gets it.

    Attributes:
        words: What stands in front of the first call; of an answer that goes on, what can be shown by now.
        calls: Those that are closed, by the names that the client knows.
    """

    words: str
    calls: tuple[ToolCall, ...] = ()


def served(text: str, markers: tuple[str, str], names: Sequence[str], going_on: bool = False) -> Served:
    """Read an answer.

    Args:
        text: What the model has written, special tokens included.
        markers: What opens and closes a call.
        names: The client's tools.
        going_on: Whether more may come, so that an end which may open a call is kept back.

    >>> served("Let me see. <tool_call>[now()]</tool_call>", ("<tool_call>", "</tool_call>"), ["now"])
    Served(words='Let me see. ', calls=(ToolCall(name='now', arguments={}),))
    >>> served("Let me see. <tool", ("<tool_call>", "</tool_call>"), ["now"], going_on=True)
    Served(words='Let me see. ', calls=())
    """
    opening, closing = markers
    words, opened, behind = text.partition(opening)
    if not opened:
        return Served(without_opening(text, opening) if going_on else text)
    closed, end, _ = behind.rpartition(closing)
    known = {written_name(name): name for name in names}
    try:
        calls = parse_tool_calls(opened + closed + end, known, markers) if end else []
    except ToolCallError:
        return Served(words if going_on else text)
    return Served(words, tuple(ToolCall(known[call.name], call.arguments) for call in calls))
