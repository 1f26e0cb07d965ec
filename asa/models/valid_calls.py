"""Valid calls with transformers' own `generate`: a logits processor that holds every call to the tools' grammar.

It works on batches, with left padding, beams and sampling, and beside `adapter.steer`. What a row has written decides,
so beams may change places. Whether to call is left to the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor

from asa.models.matching import CallGrammar, CallMatcher
from asa.models.profiles import Profile
from asa.models.prompts import Prompter
from asa.tools.definitions import Tool

SOMETHING = "§§"  # a request, to see what prompts hold around it
LIKELIEST = 16  # tokens that are tried one by one where the call must soon end


def valid_calls(
    tokenizer: Any,
    tools: Mapping[str, Tool],
    profile: Profile,
    requests: Sequence[str] | None = None,
    max_new_tokens: int | None = None,
    form: str = "pythonic",
) -> LogitsProcessor:
    """Return what makes every call valid that `model.generate(..., logits_processor=[...])` writes.

    Args:
        tokenizer: Of the model; a fast one.
        tools: Tools by name, as `load_tools` gives them.
        profile: How the model is asked, and what opens and closes a call.
        requests: The rows' requests, of whose words arguments with `x-copy` are made; None: what the prompts hold
            where prompts of `profile` hold a request.
        max_new_tokens: As given to `generate`, so that no call is cut there; None: calls end by themselves, their
            strings and lists being bounded.
        form: `pythonic` or `json`.

    Raises:
        GrammarError: llguidance is not installed, or the tokenizer is no fast one.
        ToolsError: A schema says what a grammar cannot; raised when the first call opens.
    """
    return ValidCalls(Prompter(tokenizer, profile, dict(tools)), requests, max_new_tokens, form)


class ValidCalls(LogitsProcessor):
    """See `valid_calls`."""

    def __init__(self, prompter: Prompter, requests: Sequence[str] | None, limit: int | None, form: str):
        self.grammar = CallGrammar(prompter.tokenizer, prompter.profile, prompter.opened, form)
        self.prompter, self.requests, self.limit = prompter, requests, limit
        self._before, _, self._behind = prompter.text(SOMETHING).rpartition(SOMETHING)
        self._prompt = 0  # tokens of the prompts, padding included
        self._asked: dict[tuple[int, ...], str] = {}  # prompt -> request
        self._matchers: dict[tuple[int, ...], CallMatcher | None] = {}  # all tokens of a row -> its call

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[B, vocabulary]` behind `input_ids` `[B, T]`, minus infinity where a token may not stand."""
        rows = [tuple(row) for row in input_ids.tolist()]
        if not all(row[:-1] in self._matchers for row in rows):  # the first token of new answers
            self._prompt = len(rows[0])
            self._asked = {row: self._request(row, place, len(rows)) for place, row in enumerate(rows)}
            self._matchers = dict.fromkeys(rows)
        else:
            self._matchers = {row: self._gone_on(row) for row in rows}
        scores = scores.clone()
        for row, of_row in zip(rows, scores, strict=True):
            if (matcher := self._matchers[row]) is not None:
                of_row[self._refused(matcher, of_row, len(row))] = -torch.inf
            else:
                self._open_well(row, of_row)
        return scores

    def _request(self, prompt: tuple[int, ...], place: int, rows: int) -> str:
        if self.requests is not None:
            return self.requests[place * len(self.requests) // rows]  # beams of a request stand side by side
        text = str(self.prompter.tokenizer.decode(list(prompt), skip_special_tokens=False))
        return text.rpartition(self._before)[2].removesuffix(self._behind)

    def _gone_on(self, row: tuple[int, ...]) -> CallMatcher | None:
        """The call of a row with its last token taken, or the one that it has opened."""
        before = self._matchers[row[:-1]]
        if before is None:
            return self._begun(row, list(row[self._prompt :]))
        matcher = before.copy()
        matcher.take(row[-1])
        return None if matcher.ended else matcher

    def _begun(self, row: tuple[int, ...], said: list[int]) -> CallMatcher | None:
        return self.grammar.begin(said, self.prompter.tools, self._asked[row[: self._prompt]])

    def _open_well(self, row: tuple[int, ...], scores: torch.Tensor) -> None:
        """Where the likeliest token opens a call as none can begin, prefer the one that only opens it."""
        likeliest = int(scores.argmax())
        said = [*row[self._prompt :], likeliest]
        self._begun(row, said)
        if said[-1] != likeliest:
            scores[said[-1]], scores[likeliest] = scores[likeliest].clone(), -torch.inf

    def _refused(self, matcher: CallMatcher, scores: torch.Tensor, width: int) -> torch.Tensor:
        """Which tokens a row may not go on with, `[vocabulary]` bool."""
        allowed = matcher.mask(len(scores)).to(scores.device)
        left = None if self.limit is None else self._prompt + self.limit - width
        if left is not None and left <= matcher.tight:
            tried = scores.masked_fill(~allowed, -torch.inf).topk(min(LIKELIEST, int(allowed.sum()))).indices.tolist()
            ending = [token for token in tried if matcher.can_end(token, left - 1)] or matcher.ending()[:1]
            allowed = torch.zeros_like(allowed).index_fill(0, torch.tensor(ending, device=allowed.device), True)
        return ~allowed
