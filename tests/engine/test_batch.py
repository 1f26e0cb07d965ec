"""A batch: replay, decoding, likelihoods and selection against plain full forwards and plain `generate`.

What is done with a batch changes nothing of what it says next.
"""

import copy

import pytest
import torch
from batches import LIMIT, closed, decoded, generated, in_order, random_push, truly_pushed, truth_of
from conftest import HIDDEN, PREFIX, make_gemma3, make_prompts
from helpers import Answer, assert_likely, assert_near, full_forwards

import asa.engine.batch
import asa.engine.decoding
from asa.engine.batch import Batch, LastToken
from asa.engine.decoding import Decoder
from asa.engine.engine import Engine
from asa.models.fitting import shared_prefix
from asa.models.layout import decoder_layers


@pytest.fixture(scope="module")
def plain(tiny_model, prompts) -> LastToken:
    return full_forwards(tiny_model, prompts)


@pytest.fixture(scope="module")
def truth(tiny_model, prompts) -> tuple[LastToken, float]:
    return truth_of(tiny_model, prompts)


@pytest.fixture
def batches(tiny_model, prompts) -> list[Batch]:
    return list(Engine(tiny_model, shared_prefix(prompts)).batches(prompts, "test"))


def test_the_fixtures_can_show_a_fault(tiny_model, prompts, plain):
    """States differ between prompts, answers vary and end at different steps, and the prefix is the promised one."""
    assert len(shared_prefix(prompts)) == PREFIX
    assert len({len(prompt) for prompt in prompts}) < len(prompts)
    assert (torch.cdist(plain.states[:, 2], plain.states[:, 2]) + 100 * torch.eye(len(prompts))).min() > 1
    answers = [generated(tiny_model, prompt) for prompt in prompts]
    assert len({len(answer) for answer in answers}) > 3
    assert len({token for answer in answers for token in answer}) > 20


def test_replay_of_the_unchanged_state_changes_no_bit(batches):
    """A push of zero is the unsteered run itself, so a tuned setting is never credited with rounding."""
    for batch in batches:
        last = batch.last_token()
        for layer in range(last.states.shape[1]):
            assert torch.equal(batch.replay(layer, last.states[:, layer]), last.logits)
            assert torch.equal(batch.replay(layer, last.states[:, layer] + 0.0), last.logits)


def test_replay_needs_no_reading_first(batches, plain):
    """A batch that was never read replays the same."""
    for batch in batches:
        hidden = plain.states[batch.rows, 1]
        first = batch.replay(1, hidden)
        batch.last_token()
        assert torch.equal(first, batch.replay(1, hidden))


@pytest.mark.parametrize("layer", [0, 2, -1])
def test_decode_with_a_push_equals_generate_with_a_one_shot_hook(tiny_model, batches, prompts, plain, layer):
    """One push at the last prompt token, none at the tokens after it, and convolutions and keys above carry it on."""
    layer %= len(decoder_layers(tiny_model))
    push = random_push(plain.states[:, layer], seed=9)
    expected = [generated(tiny_model, prompt, (layer, row)) for prompt, row in zip(prompts, push, strict=True)]
    assert decoded(batches, (layer, push)) == expected
    assert sum(a != b for a, b in zip(expected, decoded(batches), strict=True)) > len(prompts) // 2


def decoder_logits(monkeypatch) -> list[torch.Tensor]:
    """The logits of every step that a decoder takes from now on."""
    run, seen = Decoder._run, []
    monkeypatch.setattr(Decoder, "_run", lambda *args: seen.append(run(*args)) or seen[-1])
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_generated_push_is_the_replayed_one_to_the_bit(tiny_model, prompts, dtype, monkeypatch):
    """Added in fp32 and rounded once, also in 16 bit: what was tuned is what is generated."""
    model = copy.deepcopy(tiny_model).to(dtype)
    (batch,) = Engine(model, shared_prefix(prompts)).batches(prompts, "test")
    states, pushed = batch.last_token().states.float(), decoder_logits(monkeypatch)
    for layer in range(states.shape[1]):
        push = random_push(states[:, layer], seed=layer)
        batch.decode(1, closed, push=(layer, push))
        assert torch.equal(pushed[-1], batch.replay(layer, states[:, layer] + push))


def test_decode_with_a_push_of_zero_is_decode(batches, monkeypatch):
    """Baseline and steered runs take one path."""
    nothing, seen = torch.zeros(sum(len(batch.rows) for batch in batches), HIDDEN), decoder_logits(monkeypatch)
    for batch in batches:
        batch.decode(LIMIT, closed)
    plain_logits = seen[:]
    for batch in batches:
        batch.decode(LIMIT, closed, push=(1, nothing[batch.rows]))
    logits = seen[len(plain_logits) :]
    assert len(logits) == len(plain_logits) > len(batches)
    assert all(torch.equal(a, b) for a, b in zip(logits, plain_logits, strict=True))
    assert decoded(batches, (1, nothing)) == decoded(batches)


@pytest.mark.slow
@pytest.mark.parametrize("opening", [[9], [5, 300, 41]])
def test_an_opening_begins_the_answer_and_the_model_goes_on_from_there(tiny_model, batches, prompts, opening):
    """As it goes on alone behind prompt and opening; the limit counts both."""
    said = in_order(batches, [batch.decode(LIMIT, closed, opening=opening) for batch in batches])
    begun = [opening + generated(tiny_model, prompt + opening)[: LIMIT - len(opening)] for prompt in prompts]
    assert said == [Answer(answer, tiny_model, prompt) for answer, prompt in zip(begun, prompts, strict=True)]
    assert max(map(len, said)) == LIMIT
    assert opening not in [answer[: len(opening)] for answer in decoded(batches)]


def test_the_limit_and_the_end_hold_inside_an_opening(batches):
    for limit, opening, said in ((2, [5, 300, 41], [5, 300]), (LIMIT, [5, 7, 41], [5, 7])):
        for batch in batches:
            assert batch.decode(limit, closed, opening=opening) == [said] * len(batch.rows)


@pytest.mark.parametrize("place", [0, 1])
def test_an_avoided_token_gives_way_to_the_best_of_the_others(tiny_model, batches, prompts, plain, place):
    """At the first step only; a row that would not begin with it says what it always says, and it again later."""
    usual = decoded(batches)
    row = next(row for row, answer in enumerate(usual) if len(answer) > 1 and answer[0] != answer[1])
    avoid = usual[row][place]
    said = in_order(batches, [batch.decode(LIMIT, closed, avoid=avoid) for batch in batches])
    for prompt, logits, answer, before in zip(prompts, plain.logits, said, usual, strict=True):
        others = [token for token in range(len(logits)) if token != avoid]
        first = others[int(logits[others].argmax())]
        rest = [] if closed([first]) else generated(tiny_model, [*prompt, first])[: LIMIT - 1]
        assert answer == Answer([first, *rest], tiny_model, prompt)
        assert (answer == before) == (before[0] != avoid)
    assert (said[row] == usual[row]) == (place == 1)


def answers_of_all_lengths(count: int) -> list[list[int]]:
    """`count` random answers of 1 to 9 tokens."""
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, 400, (1 + 5 * row % 9,), generator=generator).tolist() for row in range(count)]


@pytest.mark.parametrize("at_once", [1, 5, 16])
def test_the_likelihood_of_answers_is_that_of_plain_full_forwards(tiny_model, batches, prompts, monkeypatch, at_once):
    """However many are scored at once, and whatever stands beside them."""
    monkeypatch.setattr(asa.engine.batch, "SCORED_ROWS", at_once)
    answers = answers_of_all_lengths(len(prompts))
    assert len({len(answer) for answer in answers}) == 9
    for batch in batches:
        batch.decode(3, closed)  # whatever was done before
    found = in_order(batches, [batch.log_likelihood([answers[row] for row in batch.rows]) for batch in batches])
    assert max(found) - min(found) > 1
    assert_likely(found, tiny_model, prompts, answers)


def test_the_likelihood_through_a_sliding_window(monkeypatch):
    """A window that ends inside the prefix for some tokens and behind it for others."""
    monkeypatch.setattr(asa.engine.batch, "SCORED_ROWS", 3)
    model, prompts = make_gemma3(window=11), make_prompts((2, 9, 5, 17, 5), seed=2)
    answers = answers_of_all_lengths(len(prompts))
    (batch,) = Engine(model, shared_prefix(prompts)).batches(prompts, "test")
    found = batch.log_likelihood([answers[row] for row in batch.rows])
    assert_likely(found, model, [prompts[row] for row in batch.rows], [answers[row] for row in batch.rows])


def test_the_likeliest_first_tokens_are_what_the_model_says(tiny_model, batches, prompts):
    """Scoring and speaking are one model: the likelihood of the first token is that of the plain way."""
    for batch in batches:
        firsts = batch.decode(1, closed)
        said = batch.log_likelihood(firsts)
        assert_likely(said, tiny_model, [prompts[row] for row in batch.rows], firsts)
        assert said == pytest.approx(batch.last_token().logits.log_softmax(-1).amax(1).tolist())


def test_decode_ends_rows_where_told(batches):
    """An answer holds its first closing token and nothing behind it, and never more than the limit."""
    for answer in decoded(batches):
        assert 1 <= len(answer) <= LIMIT
        assert not any(closed(answer[: end + 1]) for end in range(len(answer) - 1))
        assert closed(answer) or len(answer) == LIMIT
    assert [answer[:1] for answer in decoded(batches)] == in_order(
        batches, [batch.decode(1, closed) for batch in batches]
    )


def held(batch: Batch) -> list[torch.Tensor]:
    """Every tensor that a batch and its engine keep."""
    tensors = [batch.tokens, batch.positions, batch.own_mask]
    for cache in (batch.cache, batch.engine.start):
        for layer in cache.layers:
            tensors += list(getattr(layer, "conv_states", {}).values())
            pair = [part for name in ("keys", "values") if (part := getattr(layer, name, None)) is not None]
            tensors += [part[:, :, : getattr(layer, "length", None)] for part in pair]  # behind it is scratch
    return [*tensors, *(part for pair in batch.engine.prefix_keys.layers.values() for part in pair)]


def test_a_batch_can_be_used_again(batches, plain):
    """Reading, replaying, decoding and selecting leave cache, prefix and rows as they were, bit for bit."""
    for batch in batches:
        before = copy.deepcopy(held(batch))
        hidden = plain.states[batch.rows, 0]
        for use in (
            batch.last_token,
            lambda batch=batch, hidden=hidden: batch.replay(0, hidden),
            lambda batch=batch: batch.decode(LIMIT, closed),
            lambda batch=batch, hidden=hidden: batch.decode(LIMIT, closed, push=(0, hidden)),
            lambda batch=batch: batch.decode(LIMIT, closed, opening=[9, 41]),
            lambda batch=batch: batch.decode(LIMIT, closed, avoid=9),
            lambda batch=batch: batch.log_likelihood([[9, 41, 300]] * len(batch.rows)),
            lambda batch=batch: batch.select([0]).decode(LIMIT, closed),
            lambda batch=batch: batch.select([0]).last_token(),
        ):
            use()
            after = held(batch)
            assert len(before) == len(after) > 6
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_second_use_says_the_same(batches):
    """Whatever was done with a batch before."""
    for batch in batches:
        logits, answers = batch.last_token().logits, batch.decode(LIMIT, closed)
        assert torch.equal(batch.last_token().logits, logits)
        assert batch.decode(LIMIT, closed) == answers


@pytest.mark.parametrize("places", [[3], [0, 5, 7], [11, 2, 8, 4]])
def test_selected_rows_say_what_the_model_says(tiny_model, batches, prompts, truth, places):
    """In any order, and after the whole batch has been read."""
    (batch,), (true, allowed) = batches, truth
    batch.last_token()
    part = batch.select(places)
    assert part.rows == [batch.rows[place] for place in places]
    asked, read = [prompts[row] for row in part.rows], part.last_token()
    assert_near(read.states, true.states[part.rows], allowed)
    assert_near(read.logits, true.logits[part.rows], allowed)
    push = random_push(read.states[:, 1])
    assert_near(part.replay(1, read.states[:, 1] + push), truly_pushed(tiny_model, asked, 1, push), allowed)
    assert part.decode(LIMIT, closed) == [generated(tiny_model, prompt) for prompt in asked]
    pushed = [generated(tiny_model, prompt, (1, row)) for prompt, row in zip(asked, push, strict=True)]
    assert part.decode(LIMIT, closed, push=(1, push)) == pushed


def test_generate_is_not_disturbed_by_an_engine(tiny_model, batches, prompts):
    """The model answers on its own between two uses of the engine."""
    fresh = [generated(tiny_model, prompt) for prompt in prompts[:3]]
    batches[0].last_token()
    batches[0].decode(2, closed)
    assert [generated(tiny_model, prompt) for prompt in prompts[:3]] == fresh


@pytest.mark.slow
@pytest.mark.parametrize("below", [0.0, 0.5, 1.1])
def test_dropping_finished_rows_changes_no_answer(tiny_model, batches, prompts, plain, monkeypatch, below):
    """Never, at half, and at every step."""
    push = random_push(plain.states[:, 1])
    expected = [generated(tiny_model, prompt) for prompt in prompts]
    pushed = [generated(tiny_model, prompt, (1, row)) for prompt, row in zip(prompts, push, strict=True)]
    monkeypatch.setattr(asa.engine.decoding, "COMPACT_BELOW", below)
    seen = decoder_logits(monkeypatch)
    assert decoded(batches) == expected
    widths = [len(logits) for logits in seen[1:]]  # those that end at once never stay
    assert (min(widths) == max(widths)) == (below == 0.0)
    assert decoded(batches, (1, push)) == pushed
