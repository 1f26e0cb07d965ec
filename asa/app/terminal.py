"""The terminal: answers as lines, and a chat that goes on until an empty line.

What a model says is printed with its control characters escaped, so that it cannot steer the terminal.
"""

from collections.abc import Callable, Iterable

from asa.adapter import Decision
from asa.app.answers import Answer
from asa.app.asking import Options
from asa.app.assistant import Assistant
from asa.evaluation.comparisons import CONTROL
from asa.support.files import UserError

WELCOME = "An empty line ends the chat, /new begins another conversation."


def decision_line(answer: Answer) -> str:
    """What the adapter decided, and what is wrong with the calls, in one line."""
    parts = [] if answer.decision is None else [decided(answer.decision)]
    return ", ".join([*parts, *answer.faults, f"{answer.seconds:.1f} s"])


def decided(decision: Decision) -> str:
    """A decision in words."""
    pushed = {1: "pushed toward a call", 0: "not pushed", -1: "pushed away from a call"}[decision.gate]
    return f"{decision.domain}, p(tool) {decision.p_tool:.3f}, {pushed}"


def printable(text: str) -> str:
    """`text` with the characters escaped that a terminal obeys, but for line breaks."""
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else ascii(found[0])[1:-1], text)


def chat(assistant: Assistant, options: Options, lines: Iterable[str], say: Callable[..., object] = print) -> None:
    """Answer line by line, each with what was said before, until an empty line.

    Args:
        assistant: Answers.
        options: Of every answer.
        lines: What the user types.
        say: Prints.
    """
    say(WELCOME)
    history: tuple = ()
    for line in lines:
        if not line.strip():
            return
        if line.strip() == "/new":
            history = ()
            continue
        try:
            answering = assistant(line, stream=True, **(options | {"history": history}))
            for piece in answering:
                say(printable(piece), end="", flush=True)
        except UserError as error:
            say(f"error: {error}")
            continue
        answer = answering.answer
        assert answer is not None  # all its pieces were given
        say(f"\n  [{printable(decision_line(answer))}]")
        history = answer.messages
