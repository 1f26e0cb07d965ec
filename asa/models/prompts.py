"""Prompts: system text, example turns and a request, as tokens.

The tool list is written into the system text by us (a template's own `tools=` may print today's date), the chat
template does the rest, and control tokens come from the template alone: a control token's text inside a request is
broken up (see `templates`), and any other text reaches the model as it is. Where the template knows no system role, the
system text opens the first user turn. Every prompt is checked for what the method rests on: one beginning of text, and
the same last tokens as all others, since the state is read there.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, cast

from asa.models.known_prompts import common_start
from asa.models.profiles import Profile
from asa.models.templates import PROMPT_DATE, broken_up, control_texts, settled_template, system_text
from asa.support.files import UserError, half_character
from asa.tools.definitions import Example, Tool, render_call

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = dict[str, str]  # "role" and "content"
_OTHER_DATE = datetime(2023, 11, 8, 9, 47, 31)  # differs in all that a template may print of a date
# how turns are put to a template: system text in the first user turn?, contents as lists of parts?
_SHAPES = ((False, False), (True, False), (False, True), (True, True))


class PromptError(UserError):
    """Tokenizer and chat template do not give usable prompts; the message says what was expected and found."""


class Prompter:
    """Renders requests for one model.

    Args:
        tokenizer: With a chat template.
        profile: System text and call format.
        tools: Tools by name, in order, with examples where the profile shows any.

    Attributes:
        messages: The turns in front of every request; the first holds the system text.
        template_hash: First 16 hex digits of the chat template's SHA-256.
        dated: Whether the chat template prints the date, which is then `PROMPT_DATE`.
        tail: Token ids behind the request, the same in every prompt.
        trigger_id: First token of the trigger.
        opened: `<think>` where the prompt ends in it, so that an answer begins as a thought; else "".

    Raises:
        PromptError: The tokenizer has no usable chat template, its prompts do not show what they are given or do not
            end alike, or it does not know the trigger.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", profile: Profile, tools: dict[str, Tool]):
        self.tokenizer, self.profile, self.tools = tokenizer, profile, tools
        self._template = self._find_template()
        self.template_hash = hashlib.sha256(self._template.encode()).hexdigest()[:16]
        self._control = control_texts(tokenizer, self._template, profile)
        self.messages = [{"role": "system", "content": system_text(profile, tools)}]
        if profile.few_shot:
            for tool in tools.values():
                for example in tool.examples:
                    self.messages.append({"role": "user", "content": self._plain(example.request)})
                    self.messages.append({"role": "assistant", "content": self.reaction(tool, example)})
        shown = self._find_shape()
        self.dated = self._rendered(self.turns("")) != self._rendered(self.turns(""), _OTHER_DATE)
        self.trigger_id = self._find_trigger()
        samples = [self._tokens(request) for request in ("a", "7", "?")]
        first_tokens = (samples[0][0], *tokenizer("a")["input_ids"][:1])  # the template's, the tokenizer's own
        self._bos_count = int(tokenizer.bos_token_id is not None and tokenizer.bos_token_id in first_tokens)
        self.tail = common_start([ids[::-1] for ids in samples])[::-1]
        found = cast(list[int], tokenizer.convert_tokens_to_ids(self._control))
        self._control_ids = set(found) - {tokenizer.unk_token_id}  # any text may hold what is unknown
        self._own_control = self._only_control(samples[0])
        if not self.tail:
            raise PromptError(
                f"{profile.model_id}: expected its prompts to end in the same tokens, found none in common: "
                "choose a model whose chat template closes the user's turn."
            )
        if not shown:
            raise PromptError(
                f"{profile.model_id}: expected its chat template to show the system text and the request, found that "
                "it leaves one out: choose an instruction-tuned model, or correct its chat template."
            )
        self.opened = "<think>" if str(tokenizer.decode(self.tail)).rstrip().endswith("<think>") else ""

    @property
    def date_note(self) -> str:
        """A sentence on the date where the chat template prints it, else ""."""
        said = f"The chat template prints the date: in every prompt it is {PROMPT_DATE:%d %B %Y}, on whatever day."
        return said if self.dated else ""

    def _find_template(self) -> str:
        """The tokenizer's chat template; of several, the default one."""
        if not self.tokenizer.chat_template:
            raise PromptError(f"{self.profile.model_id} has no chat template: choose an instruction-tuned model.")
        try:
            return self.tokenizer.get_chat_template()
        except ValueError as error:
            raise PromptError(
                f"{self.profile.model_id} has several chat templates and no default one: name one of them default."
            ) from error

    def _find_shape(self) -> bool:
        """Put turns to the template in the first of `_SHAPES` that shows system text and request; False: none does."""
        refusals = {}
        for self._shape in _SHAPES:
            try:
                plain = self._rendered(self.turns("7"))
                if plain not in (self._rendered(self.turns("8")), self._rendered(self.turns("7", marked="8"))):
                    return True
            except PromptError as error:
                refusals[self._shape] = error
        self._shape = _SHAPES[0]
        if self._shape in refusals:
            raise refusals[self._shape]
        return False

    def _find_trigger(self) -> int:
        """The trigger's first token; one that is written as a special token must be one."""
        trigger = self.profile.trigger
        pieces = self.tokenizer(trigger, add_special_tokens=False)["input_ids"]
        if trigger.startswith("<|") and pieces != [self.tokenizer.get_added_vocab().get(trigger)]:
            raise PromptError(
                f"{self.profile.model_id}: expected {trigger} to be one special token of its tokenizer, found "
                f"{len(pieces)} pieces: choose a model that calls tools with it, or another profile."
            )
        return pieces[0]

    def reaction(self, tool: Tool, example: Example) -> str:
        """What the assistant says to an example's request: a call of `tool`, or its answer in words."""
        if example.arguments is None:
            return self._plain(str(example.answer))
        opening, closing = self.profile.markers
        return f"{opening}[{self._plain(render_call(tool.name, example.arguments))}]{closing}"

    def _plain(self, text: str) -> str:
        """`text` with every control token's text broken up, also one that breaking up another has left or made."""
        while found := [control for control in self._control if control in text]:
            text = re.sub("|".join(map(re.escape, found)), broken_up, text)
        return text

    def turns(self, request: str, history: Sequence[Turn] = (), marked: str = "") -> list[dict]:
        """All turns as the chat template takes them, each with `role` and `content`, a text or a list of parts.

        Args:
            request, history: As for `text`.
            marked: What else stands behind the system text.
        """
        merged, in_parts = self._shape
        answering = not request and history and history[-1]["role"] == "tool"
        asked = [] if answering else [{"role": "user", "content": self._plain(request)}]
        system, *turns = [*self.messages, *map(self._turn, history), *asked]
        system = system | {"content": system["content"] + marked}
        if merged:
            turns[0] = turns[0] | {"content": f"{system['content']}\n\n{turns[0]['content']}"}
        else:
            turns = [system, *turns]
        if in_parts:
            return [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
        return turns

    def _turn(self, turn: Turn) -> Turn:
        """An earlier turn; only where the assistant speaks, what opens and closes a call may stand as such.

        A template that knows no tools is told their results by the user.
        """
        if turn["role"] == "tool" and "tool" not in self._template:
            return {"role": "user", "content": f"Result: {self._plain(turn['content'])}"}
        if turn["role"] != "assistant":
            return {"role": turn["role"], "content": self._plain(turn["content"])}
        opening, closing = map(re.escape, self.profile.markers)
        parts = re.split(f"({opening}|{closing})", turn["content"])
        return turn | {"content": "".join(part if n % 2 else self._plain(part) for n, part in enumerate(parts))}

    def _rendered(self, turns: list[dict], date: datetime = PROMPT_DATE) -> str:
        template = settled_template(self._template, date)
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=True
            )
            return cast(str, rendered)
        except Exception as error:  # a template is a program: it may raise anything
            said = " ".join(str(error).split()) or type(error).__name__
            raise PromptError(
                f"{self.profile.model_id}: its chat template fails ({said}): correct it, or choose another model."
            ) from error

    def text(self, request: str, history: Sequence[Turn] = ()) -> str:
        """The whole prompt as text, up to where the assistant speaks.

        Args:
            request: What the user asks; may be empty behind a tool's result, to which the model then answers.
            history: Earlier turns, with a `role` (user, assistant or tool) and `content`; they follow the examples.

        Raises:
            PromptError: The chat template fails.
        """
        return self._rendered(self.turns(request, history=history))

    def ids(self, request: str, history: Sequence[Turn] = ()) -> list[int]:
        """The whole prompt as token ids; the template's special tokens only, so never a second beginning of text.

        Raises:
            PromptError: It holds half a character, does not begin with one beginning of text, does not end as all
                prompts do, or has other control tokens than they.
        """
        if half := half_character("\n".join([*(turn["content"] for turn in history), request])):
            raise PromptError(f"the request {request[:40]!r} has half a character, {half}: write the whole character.")
        ids = self._tokens(request, history)
        found = len(list(itertools.takewhile(lambda token: token == self.tokenizer.bos_token_id, ids)))
        if found != self._bos_count:
            raise PromptError(
                f"{self.profile.model_id}: expected its prompt to begin with one {self.tokenizer.bos_token}, found "
                f"{found}: correct its chat template."
            )
        if ids[-len(self.tail) :] != self.tail:
            raise PromptError(
                f"{self.profile.model_id}: expected its prompt to end in {self.tokenizer.decode(self.tail)!r}, found "
                f"{self.tokenizer.decode(ids[-len(self.tail) :])!r}: reword the request {request[:40]!r}."
            )
        plain = [turn if turn["role"] == "assistant" else turn | {"content": "a"} for turn in history]
        own = self._only_control(self._tokens(request and "a", plain)) if history else self._own_control
        if self._only_control(ids) != own:
            raise PromptError(
                f"{self.profile.model_id}: expected control tokens from its chat template alone, found others: reword "
                f"the request {request[:40]!r}."
            )
        return ids

    def prefix(self, history: Sequence[Turn] = ()) -> list[int]:
        """The token ids that prompts begin with behind `history`, up to what a request may change."""
        return common_start([self._tokens(request, history) for request in ("a", "7", "?", " a", "\na")])

    def _only_control(self, ids: list[int]) -> list[int]:
        return [token for token in ids if token in self._control_ids]

    def _tokens(self, request: str, history: Sequence[Turn] = ()) -> list[int]:
        return self.tokenizer(self.text(request, history), add_special_tokens=False, verbose=False)["input_ids"]

    def answer(self, ids: list[int]) -> str:
        """The text of generated ids, behind the `<think>` that the prompt may have opened."""
        return self.opened + str(self.tokenizer.decode(ids))

    def key(self) -> str:
        """Hash of all that shapes a prompt but the request."""
        return hashlib.sha256(self.text("").encode()).hexdigest()[:16]
