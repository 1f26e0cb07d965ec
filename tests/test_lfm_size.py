"""The real size: its shape, the counts behind the T4's seconds, their arithmetic, and the command on a tiny shape."""

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_lfm2
from torch.utils.flop_counter import FlopCounterMode

from asa.evaluation.ablations import Steered, pushes
from asa.method.tuning import Setting

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import lfm_size
import stages
import t4
from counting import Counts, OpCounter
from shape import LONGEST, PREFIX, TAIL, Work, draw_prompts, make_model, parameters_of, real_config

SIZES = lfm_size.Sizes(prompts=6, rows=(1, 4), steps=3, product=64, split=8, spare=5)


@pytest.fixture(scope="module")
def tiny_works(tiny_lfm2) -> dict[str, Work]:
    """The same shape and prompts, with data and without."""
    prompts = draw_prompts(6, tiny_lfm2.config.vocab_size)
    return {
        "real": Work(tiny_lfm2, prompts),
        "meta": Work(make_model(tiny_lfm2.config, torch.float32, "meta"), prompts),
    }


def test_the_shape_is_the_published_one():
    config = real_config()
    assert parameters_of(config) == lfm_size.PARAMETERS == 1_170_340_608
    assert len(config.layer_types) == 16
    assert [layer for layer, kind in enumerate(config.layer_types) if kind == "full_attention"] == [2, 5, 8, 10, 12, 14]
    assert {kind for kind in config.layer_types} == {"conv", "full_attention"}


def test_prompts_are_as_long_as_the_benchmarks():
    """Own tokens: about 25 on average, 97 + 5 at the 99th percentile; the same draw every time."""
    prompts = draw_prompts(1600, 65536)
    own = sorted(len(prompt) - PREFIX for prompt in prompts)
    assert 24 < sum(own) / len(own) < 27
    assert 85 < own[1584] < 115 and own[0] > TAIL and own[-1] <= LONGEST + TAIL
    assert len({tuple(prompt[:PREFIX]) for prompt in prompts}) == 1
    assert prompts == draw_prompts(1600, 65536)


def test_counts_without_data_are_those_with_data(tiny_works):
    """Every stage costs the same on the meta device; operations are those that torch's own counter finds."""
    kept = {}
    for kind, work in tiny_works.items():
        counter = OpCounter()
        kept[kind] = [counter.count(run)[0] for _, run in lfm_size.stages_of(work, SIZES)]
    assert kept["real"] == kept["meta"]
    for counts, (_, run) in zip(kept["real"], lfm_size.stages_of(tiny_works["real"], SIZES), strict=True):
        with FlopCounterMode(display=False) as torchs:
            run()
        assert counts.flop == torchs.get_total_flops() > 0


def test_a_product_is_counted_by_hand():
    """8 x 8 x 8 in fp32: 1,024 operations, three matrices, one kernel; a view costs nothing, a new tensor is held."""
    left, kept = torch.ones(8, 8), []
    counter = OpCounter()
    counter.hold([left, left])
    counts, peak = counter.count(lambda: kept.append((left.T @ left.view(8, 8)).view(64)))
    assert counts == Counts(flop=2 * 8**3, moved=3 * 256, launches=1)
    assert counter.live == peak == 2 * 256
    kept.clear()
    assert counter.live == 256
    table = torch.ones(100, 4)
    assert counter.count(lambda: table[torch.tensor([1, 2])])[0].moved < table.nbytes


def test_a_decoded_answer_is_counted_through_its_middle(tiny_works):
    """First token plus the middle one for each other is what all tokens really cost, but for the room's own columns."""
    work, limit, counter = tiny_works["meta"], 9, OpCounter()
    work.prefix()
    work.extract()
    guessed = stages._answers(counter, "answers", 1, work, limit).counts
    real = counter.count(partial(work.decode, work.batches, limit, limit))[0]
    for name in ("flop", "moved", "launches"):
        assert getattr(guessed, name) == pytest.approx(getattr(real, name), rel=0.01)


def test_as_many_ablations_are_counted_as_there_are():
    readers = SimpleNamespace(
        domains=["math"], mean_norm=1.0, route=lambda h: np.zeros(len(h), int), p_tool=lambda h, _=None: np.ones(len(h))
    )
    directions = dict.fromkeys(("global", "math"), np.ones(3))
    parts = Steered(Setting("action", 0, 0.5, 0.5, 0.5), readers, readers, directions)
    assert stages.ABLATIONS == len(pushes(parts, np.zeros((2, 1, 3)), ["math"] * 2, 0))


def test_seconds_are_the_hand_computed_ones():
    """20 TFLOP at half of 10 TFLOP/s, 3 GB at a quarter of 4 GB/s, 500 launches of 2 ms, twice."""
    card = t4.Card("a card", flops=10e12, mfu=0.5, bandwidth=4e9, share=0.25, launch=2e-3, around=1)
    counts = Counts(flop=20e12, moved=3e9, launches=500)
    assert card.seconds(counts) == pytest.approx(4 + 3 + 1)
    assert t4.seconds_of(stages.Stage("work", 2, counts, 0), card) == pytest.approx(16)


def test_the_whole_run_is_added_up():
    """600 s of stages and more around them are not below the budget; memory is weights, the rest, slack, context."""
    expected = t4.CARDS[0]
    launches = 100 / expected.launch
    one = stages.Stage("work", 3, Counts(launches=launches), peak=5_000_000_000)
    said = t4.in_words([one], [("around", 10.0, "why")], 2_000_000_000, 1e-5)
    assert "| work | 3 | 0 | 0.0 | 4,000,000 | 5.00 | 300.0 | 600.0 |" in said
    assert "| **the whole run** | **310** | **620** | below and NOT below 600 s |" in said
    assert "| **in all** | **6.20** | below 8 GB |" in said


def test_the_command_writes_its_table(tmp_path):
    """Measured rows of both dtypes and every stage of the computed run, at a tiny shape."""
    lfm_size.benchmark(make_lfm2().config, SIZES, tmp_path / "lfm_size.md")
    text = (tmp_path / "lfm_size.md").read_text()
    for dtype in map(str, lfm_size.dtypes()):
        assert text.count(f"| {dtype.removeprefix('torch.')} |") == 6
    for said in (
        "decoding, batch 4, 3 tokens", "8 VALID prompts at layer 2", "16 prompts: TEST", "128 tokens for 16 rows",
        "the whole run", "**in all**", lfm_size.machine(),
    ):  # fmt: skip
        assert said in text
    assert [path.name for path in tmp_path.iterdir()] == ["lfm_size.md"]
