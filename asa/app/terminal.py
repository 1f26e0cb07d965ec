"""The terminal: answers as lines, and a chat that goes on until an empty line.

What a model says is printed with its control characters escaped, so that it cannot steer the terminal.
"""

from collections.abc import Callable, Iterable, Mapping

from asa.adapter import Decision
from asa.app.answers import Answer, push_in_words
from asa.app.asking import AssistantError, Options
from asa.app.assistant import Assistant
from asa.evaluation.comparisons import CONTROL
from asa.support.files import UserError
from asa.tools.forms import functions_at

WELCOME = "An empty line ends the chat, /new begins another conversation."


def decision_line(answer: Answer) -> str:
    """What the adapter decided, and what is wrong with the calls, in one line."""
    parts = [] if answer.decision is None else [decided(answer.decision)]
    cut = ["cut at the maximum of new tokens"] if answer.cut else []
    return ", ".join([*parts, *answer.faults, *cut, f"{answer.seconds:.1f} s"])


def decided(decision: Decision) -> str:
    """A decision in words."""
    return f"{decision.domain}, p(tool) {decision.p_tool:.3f}, {push_in_words(decision)}"


def printable(text: str) -> str:
    """`text` with the characters escaped that a terminal obeys, but for line breaks."""
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else ascii(found[0])[1:-1], text)


def functions_of(place: str) -> dict[str, Callable] | None:
    """The functions at `module:name`, by name; None where no place is given.

    Raises:
        AssistantError: They cannot be had.
    """
    try:
        return functions_at(place) if place else None
    except ValueError as error:
        raise AssistantError(f"--functions {place}: {error}.") from error


def chat(
    assistant: Assistant,
    options: Options,
    lines: Iterable[str],
    functions: Mapping[str, Callable] | None = None,
    say: Callable[..., object] = print,
) -> None:
    """Answer line by line, each with what was said before, until an empty line.

    Args:
        assistant: Answers.
        options: Of every answer.
        lines: What the user types.
        functions: By tool name; where there are any, calls are run and their results answered.
        say: Prints.
    """
    say(WELCOME)
    history: tuple = ()
    for line in lines:
        if not line.strip():
            return
        if line.strip() == "/new":
            history = ()
            say("A new conversation.")
            continue
        if line.startswith("/"):
            say(f"There is no {printable(line.strip())}. {WELCOME}")
            continue
        told = history
        try:
            for stream in assistant.streams(line, functions, **(options | {"history": history})):
                for turn in stream.turns[len(told) :]:
                    if turn["role"] == "tool":
                        say(f"  = {printable(turn['content'])}")
                for piece in stream:
                    say(printable(piece), end="", flush=True)
                say("")
                answer = stream.finish()
                told = answer.messages
                say(f"  [{printable(decision_line(answer))}]")
        except UserError as error:
            say(f"error: {error}")
        else:
            history = told
