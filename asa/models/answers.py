"""Answers: whether generated ids call a tool, and whether they are finished.

Strict trigger: the profile's trigger stands in the *generated* tokens, outside of any thinking. Nothing is judged here.
"""

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedTokenizerBase

from asa.models.layout import CausalModel
from asa.models.profiles import Profile
from asa.models.prompts import Prompter
from asa.tools.parser import spoken


def trigger_test(
    tokenizer: PreTrainedTokenizerBase, trigger: str, opened: str = "", call_end: str = ""
) -> Callable[[list[int]], bool]:
    """A test whether generated ids say the trigger: by its id where it is one token, else in the decoded text.

    What the model only thinks does not count (`parser.spoken`).

    Args:
        tokenizer: Of the model.
        trigger: The profile's.
        opened: The tag that the prompt has opened (`Prompter.opened`).
        call_end: What closes a call, so that tags in its arguments are text.
    """
    ids = tokenizer(trigger, add_special_tokens=False)["input_ids"]

    def triggered(generated: list[int]) -> bool:
        if len(ids) == 1 and ids[0] not in generated:
            return False  # nothing to decode
        return trigger in spoken(
            opened + str(tokenizer.decode(generated, skip_special_tokens=False)), (trigger, call_end)
        )

    return triggered


def turn_ends(tokenizer: PreTrainedTokenizerBase, model: CausalModel) -> set[int]:
    """The tokens that end a turn."""
    ends = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}


def whole_test(
    tokenizer: PreTrainedTokenizerBase, model: CausalModel, profile: Profile, opened: str = ""
) -> Callable[[list[int]], bool]:
    """A test whether generated ids are an answer that ended by itself: with the turn, or with a closed call.

    A call that is only rehearsed closes nothing (`parser.spoken`).

    Args:
        tokenizer: Of the model.
        model: Names the tokens that end a turn.
        profile: Names what closes a call or ends a turn.
        opened: As in `trigger_test`.
    """
    ends = turn_ends(tokenizer, model)
    texts = [text for text in (profile.call_end, profile.turn_end) if text]
    window = 3 + max(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)  # neighbours merge

    def whole(ids: list[int]) -> bool:
        recent = tokenizer.decode(ids[-window:], skip_special_tokens=False)
        if ids[-1] in ends or (profile.turn_end and profile.turn_end in recent):
            return True
        if profile.call_end not in recent:
            return False
        answer = opened + str(tokenizer.decode(ids, skip_special_tokens=False))
        return profile.call_end in spoken(answer, profile.markers)

    return whole


def closing_test(
    tokenizer: PreTrainedTokenizerBase, model: CausalModel, profile: Profile, opened: str = ""
) -> Callable[[list[int]], bool]:
    """A test whether generated ids are a finished answer: one that ended by itself, or words at their limit.

    Thoughts are no words (`parser.spoken`).

    Args:
        tokenizer: Of the model.
        model: As in `whole_test`.
        profile: As in `whole_test`; names the limit of words.
        opened: As in `trigger_test`.
    """
    whole = whole_test(tokenizer, model, profile, opened)
    triggered = trigger_test(tokenizer, profile.trigger, opened, profile.call_end)

    def words(ids: list[int]) -> int:
        said = spoken(answer := opened + str(tokenizer.decode(ids, skip_special_tokens=False)), profile.markers)
        return len(ids) if said == answer else len(tokenizer(said.strip(), add_special_tokens=False)["input_ids"])

    def closed(ids: list[int]) -> bool:
        if whole(ids):
            return True
        return len(ids) >= profile.words_limit and not triggered(ids) and words(ids) >= profile.words_limit

    return closed


class AnswerRules:
    """What belongs to a model's answers: how they begin and end, how long they may be, and when they call.

    Args:
        prompter: The prompts that are answered.
        model: The model that answers.

    Attributes:
        trigger_id: First token of the trigger.
        limit: Maximum new tokens per answer.
        room: Tokens in which a call shows, where it begins the answer.
        markers: The texts that open and close a call.
        calls: Whether generated ids call a tool.
        whole: Whether generated ids are an answer that ended by itself.
        ended: Whether generated ids are a finished answer, be it at its limit.
        text: The text of generated ids.
    """

    def __init__(self, prompter: Prompter, model: CausalModel):
        tokenizer, profile = prompter.tokenizer, prompter.profile
        self.trigger_id, self.limit, self.markers = prompter.trigger_id, profile.max_new_tokens, profile.markers
        self.room = len(tokenizer(profile.trigger, add_special_tokens=False)["input_ids"]) + 3
        self.calls = trigger_test(tokenizer, profile.trigger, prompter.opened, profile.call_end)
        self.whole = whole_test(tokenizer, model, profile, prompter.opened)
        self.ended = closing_test(tokenizer, model, profile, prompter.opened)
        self.text = prompter.answer
        self._ends = (turn_ends(tokenizer, model), profile.turn_end or "")

    def called(self, answers: list[list[int]]) -> np.ndarray:
        """Whether each of N answers calls a tool, `[N]` bool."""
        return np.array([self.calls(ids) for ids in answers], bool)

    def said(self, ids: list[int]) -> str:
        """The text of generated ids without thoughts and without what ends the turn."""
        tokens, turn_end = self._ends
        while ids and ids[-1] in tokens:
            ids = ids[:-1]
        return spoken(self.text(ids).removesuffix(turn_end), self.markers).strip()

    def settled(self, ids: list[int]) -> bool:
        """Whether it is settled that an answer calls a tool, or the answer is finished."""
        return self.calls(ids) or self.ended(ids)
