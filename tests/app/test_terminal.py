"""The terminal: an answer as lines, and a chat whose turns know of each other."""

from dataclasses import replace

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


def test_a_cut_answer_says_so():
    assert decision_line(replace(answer("x"), cut=True)).endswith(
        "toward a call, cut at the maximum of new tokens, 1.2 s"
    )


def test_what_a_terminal_obeys_is_escaped():
    assert printable("a\x1b[2Jb\nc\x07") == "a\\x1b[2Jb\nc\\x07"


class Echo:
    """Says what it is told, once more behind a tool's result; `bad` is refused."""

    def __init__(self):
        self.asked = []

    def streams(self, line, functions, steer, history):
        self.asked.append((line, len(history), steer))
        if line == "bad":
            raise UserError("no.")
        own = (*history, {"role": "user", "content": line})
        for turns in (own, (*own, {"role": "assistant", "content": line}, {"role": "tool", "content": "84\x07"})):
            yield Stream(self.pieces(line, turns), turns, None)
            if functions is None:
                return
            if "fails" in functions:
                raise UserError("it failed.")

    @staticmethod
    def pieces(line, turns):
        yield line
        return answer(line, turns[:-1])


def test_a_chat_goes_on_until_an_empty_line():
    """Each turn knows those before it, `/new` begins again, and an error ends nothing."""
    echo, said = Echo(), []
    lines = iter(["one", "bad", "two\x1b", "/new", "/old", "three", "", "never"])
    chat(echo, {"steer": True}, lines, say=lambda text, **_: said.append(text))
    assert echo.asked == [("one", 0, True), ("bad", 2, True), ("two\x1b", 2, True), ("three", 0, True)]
    assert said[0] == WELCOME and "one" in said and "error: no." in said and "two\\x1b" in said
    assert next(lines) == "never" and "A new conversation." in said and f"There is no /old. {WELCOME}" in said


def test_results_of_tools_are_shown_and_a_failed_one_is_forgotten():
    """What a tool gives stands between the two answers; where it fails, the next turn knows nothing of the request."""
    echo, said = Echo(), []
    chat(echo, {"steer": True}, ["one", "two"], {"one": str}, say=lambda text, **_: said.append(text))
    assert said.count("  = 84\\x07") == 2 and said.index("one") < said.index("  = 84\\x07")
    assert [known for _, known, _ in echo.asked] == [0, 4]
    chat(echo, {"steer": True}, ["one", "two"], {"fails": str}, say=lambda text, **_: said.append(text))
    assert [known for _, known, _ in echo.asked[2:]] == [0, 0] and said.count("error: it failed.") == 2
