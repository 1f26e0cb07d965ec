"""Fitting: the prefix that all prompts share, and room for an answer."""

import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
from small_prompts import POOL, TINY, TOOLS

from asa.data.requests import Request, RequestsError
from asa.models.fitting import fitting_prompts, shared_prefix
from asa.models.prompts import Prompter, PromptError


def test_the_shared_prefix_is_the_longest_that_leaves_two_tokens():
    rng = random.Random(0)
    for _ in range(300):
        common = [rng.randrange(3) for _ in range(rng.randrange(6))]
        prompts = [common + [rng.randrange(3) for _ in range(rng.randrange(2, 5))] for _ in range(rng.randrange(1, 5))]
        prefix = shared_prefix(prompts)
        size = len(prefix)
        assert all(prompt[:size] == prefix and len(prompt) >= size + 2 for prompt in prompts)
        longer = {tuple(prompt[: size + 1]) for prompt in prompts}
        assert len(longer) > 1 or min(map(len, prompts)) == size + 2


def test_requests_of_one_prompt_share_system_text_and_examples(tokenizer):
    prompter = Prompter(tokenizer, TINY, TOOLS)
    prefix = shared_prefix([prompter.ids(text) for text in ("Why?", "How many?", "2+2?")])
    shared = tokenizer.decode(prefix)
    assert prompter.text("Why?").startswith(shared)
    assert shared.endswith("<|im_start|>user\n")


def model_of(tokens: int | None) -> SimpleNamespace:
    """A model that takes that many tokens; its text has a config of its own."""
    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=tokens))
    )


def test_a_request_must_leave_room_for_its_answer(tokenizer, caplog, capsys):
    """To the token; refused by its source before the model sees it, and transformers says nothing of its own."""
    tokenizer.model_max_length = 16
    prompter = Prompter(tokenizer, TINY, TOOLS)
    short, long = POOL[0], Request("x " * 20_000, 1, "math", "mine.jsonl:7")
    count = len(prompter.ids(long.text))
    assert fitting_prompts(prompter, model_of(None), [short, long])[1] == prompter.ids(long.text)
    assert len(fitting_prompts(prompter, model_of(count + TINY.max_new_tokens), [short, long])) == 2
    with pytest.raises(RequestsError) as caught:
        fitting_prompts(prompter, model_of(count + TINY.max_new_tokens - 1), [short, long])
    assert str(caught.value) == (
        f"mine.jsonl:7: tiny/model takes {count + 7} tokens, and this request's prompt has {count} and an answer up "
        "to 8: shorten the request, or leave it out."
    )
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


def test_tools_and_examples_that_leave_no_room_are_named(tokenizer):
    """Not the first request, which is no longer than another."""
    prompter = Prompter(tokenizer, TINY, {"add": replace(TOOLS["add"], description="x " * 500)})
    with pytest.raises(PromptError, match=r"tiny/model takes 300 .* without its request has \d{3,} .* shorter tools"):
        fitting_prompts(prompter, model_of(300), POOL)
