"""The decoder: rows that join others, rows that leave, and what bounds them."""

import pytest
import torch
from helpers import closed, generated

import asa.engine.decoding
import asa.engine.engine
from asa.engine.decoding import Decoder
from asa.engine.engine import Engine
from asa.models.fitting import shared_prefix

LIMIT = 6


@pytest.fixture
def batches(tiny_model, prompts, monkeypatch):
    monkeypatch.setattr(asa.engine.engine, "BATCH_ROWS", 5)
    return list(Engine(tiny_model, shared_prefix(prompts)).batches(prompts, "test"))


def widths(monkeypatch) -> list[tuple[int, int]]:
    """(rows, columns) of every step from now on."""
    run, seen = Decoder._run, []

    def watched(self, rows):
        logits = run(self, rows)
        seen.append(tuple(rows.mask.shape))
        return logits

    monkeypatch.setattr(Decoder, "_run", watched)
    return seen


@pytest.mark.parametrize("together", [0, 3, 80], ids=["never", "few", "always"])
def test_rows_that_join_change_no_answer(tiny_model, batches, prompts, monkeypatch, together):
    """However many are under way when the next batch comes, plain `generate` says the same, with pushes and without."""
    monkeypatch.setattr(asa.engine.decoding, "JOIN_BELOW", together)
    seen = widths(monkeypatch)
    width = batches[0].last_token().states.shape[-1]
    pushes = torch.randn(len(prompts), width, generator=torch.Generator().manual_seed(0))
    decoder = Decoder(batches[0].engine, LIMIT, closed)
    for batch in batches:
        decoder.add(batch.begin([("plain", row) for row in batch.rows]))
    for batch in batches:
        decoder.add(batch.begin([("pushed", row) for row in batch.rows]), (0, pushes[batch.rows]))
    answers = decoder.finish()
    for row, prompt in enumerate(prompts):
        assert answers["plain", row] == generated(tiny_model, prompt, LIMIT)
        assert answers["pushed", row] == generated(tiny_model, prompt, LIMIT, (0, pushes[row]))
    assert len({tuple(answers["plain", row]) for row in range(len(prompts))}) > 1
    most = max(rows for rows, _ in seen)
    assert most <= 5 if together == 0 else most > 5


def test_memory_is_bounded(batches, monkeypatch):
    """Rows wait where cached columns would pass the bound; leading columns that nobody needs any more are dropped."""
    monkeypatch.setattr(asa.engine.decoding, "JOIN_BELOW", 6)
    seen = widths(monkeypatch)
    decoder = Decoder(batches[0].engine, LIMIT, lambda _answer: False)
    for turn in range(4):
        for batch in batches:
            decoder.add(batch.begin([(turn, row) for row in batch.rows]))
    assert len(decoder.finish()) == 4 * sum(len(batch.rows) for batch in batches)
    assert max(columns for _, columns in seen) <= max(batch.own_mask.shape[1] for batch in batches) + LIMIT
    monkeypatch.setattr(asa.engine.decoding, "MOST_COLUMNS", 1)
    seen.clear()
    decoder = Decoder(batches[0].engine, LIMIT, closed)
    for batch in batches:
        decoder.add(batch.begin(batch.rows))
    decoder.finish()
    assert max(rows for rows, _ in seen) <= 5


def test_every_end_is_told_once(batches):
    """For a progress bar; also of answers that end at their first token."""
    ends = []
    decoder = Decoder(batches[0].engine, 1, closed, ended=lambda: ends.append(1))
    for batch in batches:
        decoder.add(batch.begin(batch.rows))
    answers = decoder.finish()
    assert len(ends) == len(answers) == sum(len(batch.rows) for batch in batches)
    assert {len(answer) for answer in answers.values()} == {1}
