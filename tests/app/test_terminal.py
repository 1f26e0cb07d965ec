"""The terminal: an answer as lines, and a chat whose turns know of each other."""

from asa.adapter import Decision
from asa.app.answers import Answer, Stream
from asa.app.terminal import WELCOME, chat, decision_line, printable
from asa.support.files import UserError


def answer(text: str, history=(), faults=()) -> Answer:
    decision = Decision("math", 0.91234, 1, 5, 0.5, 0.8)
    messages = (*history, {"role": "user", "content": "?"}, {"role": "assistant", "content": text})
    return Answer(text, (), faults, decision, messages, 1.25)


def test_a_decision_is_one_line():
    assert decision_line(answer("x", faults=("there is no tool add",))) == (
        "math, p(tool) 0.912, pushed toward a call, there is no tool add, 1.2 s"
    )


def test_what_a_terminal_obeys_is_escaped():
    assert printable("a\x1b[2Jb\nc\x07") == "a\\x1b[2Jb\nc\\x07"


def test_a_chat_goes_on_until_an_empty_line():
    """Each turn knows those before it, `/new` begins again, and an error ends nothing."""
    asked, said = [], []

    def assistant(line, stream, history, steer):
        asked.append((line, len(history), steer))
        if line == "bad":
            raise UserError("no.")

        def pieces():
            yield line
            return answer(line, history)

        return Stream(pieces())

    lines = iter(["one", "bad", "two\x1b", "/new", "three", "", "never"])
    chat(assistant, {"steer": True}, lines, say=lambda text, **_: said.append(text))
    assert asked == [("one", 0, True), ("bad", 2, True), ("two\x1b", 2, True), ("three", 0, True)]
    assert said[0] == WELCOME and "one" in said and "error: no." in said and "two\\x1b" in said
    assert next(lines) == "never"
