"""The benchmarks: both sides say the same on the tiny model, and the command prints and writes what it should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EOS, fit_adapter, make_prompts, tiny_assistant

from asa.data.requests import Request
from asa.engine.engine import Engine
from asa.engine.states import read_prompts
from asa.method import probes
from asa.models.profiles import choose_profile
from asa.models.saved_profiles import profile_to_json
from asa.tools.definitions import load_tools, tools_to_json

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import alone
import answers
import growth
import limits
import plain
import readers
import rows
import run
import whole
from bench import QUICK, Bench, Row, spread

pytestmark = pytest.mark.slow

DOMAINS = ("math", "code", "search", "translation")
SPLITS = {"cal": 8, "train": 8, "valid": 8, "test": 16}


@pytest.fixture(scope="module")
def bench(tiny_lfm2) -> Bench:
    """40 random prompts in splits, an adapter of four domains; a call opens with what most pushed prompts say next."""
    prompts = make_prompts(tuple(range(3, 23)) * 2, seed=3)
    adapter = fit_adapter(tiny_lfm2, prompts, DOMAINS).adapter
    cells = [(domain, label) for domain in DOMAINS for label in (0, 1)]
    splits, parts, start = {}, {}, 0
    for name, count in SPLITS.items():
        splits[name] = [Request("", cells[row % 8][1], cells[row % 8][0], "") for row in range(count)]
        parts[name] = prompts[start : start + count]
        start += count
    hook = plain.hook_of(adapter)
    tokens = [plain.next_token(tiny_lfm2, prompt, adapter.layer, hook) for prompt in prompts]
    trigger = max(set(tokens), key=tokens.count)
    return Bench(tiny_lfm2, adapter, trigger, [EOS, 100], splits, parts, prompts[0][:40], "random")


def test_states_are_those_of_one_full_forward_each(bench):
    """As near to float64, at every layer, on the sample that is timed; a changed state is noticed."""
    row, both = rows.extraction(bench, QUICK)
    assert row.equal is True
    assert len(both.ours) == QUICK.states and len(both.theirs) == QUICK.sampled_states
    number, theirs = next(iter(both.theirs.items()))
    prompt = bench.everything[spread(bench.everything, QUICK.states)[number]]
    assert rows.compare_states(bench, [(prompt, both.ours[number], theirs)])[0]
    changed = both.ours[number].copy()
    changed[2] *= 1 + 1e-3
    equal, said = rows.compare_states(bench, [(prompt, changed, theirs)])
    assert not equal and "ours 1.0e-03" in said


def test_a_sweep_setting_opens_the_same_calls(bench):
    """Replay and a full forward under the plain hook agree, on prompts that call and on prompts that do not."""
    prompts = bench.everything
    reading, batches = read_prompts(Engine(bench.model, bench.prefix), prompts, bench.trigger_id, "test")
    hook = plain.hook_of(bench.adapter)
    tokens = [plain.next_token(bench.model, prompt, bench.adapter.layer, hook) for prompt in prompts]
    called = [token == bench.trigger_id for token in tokens]
    assert 0 < sum(called) < len(called)
    assert rows.triggers(bench, batches, reading.states, bench.adapter).tolist() == called
    assert called != reading.called.tolist()
    assert rows.sweep_setting(bench, QUICK)[0].equal is True


def test_answers_are_equal_token_for_token(bench):
    """Baseline and steered; what differs is counted, and how near the scores were is said."""
    row, both = rows.generation(bench, QUICK)
    assert row.equal is True and "equal token for token" in row.note
    assert any(first != second for first, second in both.ours)
    number, (first, second) = next((n, pair) for n, pair in both.theirs.items() if len(pair[0]) > 2)
    other = [*first[:2], (first[2] + 1) % 400, *first[3:]]
    prompts = {number: [bench.prompts["test"][place] for place in spread(bench.prompts["test"], QUICK.answers)][number]}
    hook = plain.hook_of(bench.adapter)
    equal, said = rows.compare_answers(
        bench, prompts, {number: (other, second)}, {number: (first, second)}, bench.adapter.layer, hook
    )
    assert not equal
    assert said.startswith("1 of 2 answers equal") and "apart" in said


def test_both_pipelines_come_to_the_same(bench):
    """States, sweep, choice and answers, really run by both sides."""
    row = whole.pipeline(bench, QUICK)
    assert row.equal is True
    assert "CAL 8, TRAIN 8, VALID 8, TEST 16, 2 settings" in row.note


@pytest.mark.parametrize("count", [1, 32])
def test_the_plain_hook_pushes_as_the_adapter_does(count):
    row = alone.decision(count, QUICK)
    assert row.equal is True
    assert row.reach == {1: "at most 0.05 ms", 32: "at most 0.15 ms"}[count]


@pytest.mark.parametrize("weighs_probes", [True, False])
@pytest.mark.parametrize("domains", [1, 2, 4])
def test_the_plain_hook_decides_as_the_adapter_does(domains, weighs_probes):
    adapter = alone.random_adapter(domains, weighs_probes=weighs_probes)
    hook, states = plain.hook_of(adapter), torch.randn(20, alone.WIDTH, generator=torch.Generator().manual_seed(3))
    for state, decision in zip(states, adapter.push(states)[1], strict=True):
        hook.fired = False
        hook(None, None, state[None, None])
        domain, p_tool, gate = hook.decision
        assert (adapter.domains[domain], gate) == (decision.domain, decision.gate)
        assert p_tool == pytest.approx(decision.p_tool, abs=1e-5)


def test_the_plain_hook_acts_once_and_leaves_its_input(bench):
    """One answer, one push: a second call is passed through, and the block's own output is not written to."""
    hook = plain.hook_of(alone.random_adapter())
    hidden = torch.randn(1, 3, alone.WIDTH, generator=torch.Generator().manual_seed(2))
    kept = hidden.clone()
    hook.tau = 0.5
    changed = hook(None, None, hidden)
    assert torch.equal(hidden, kept) and torch.equal(changed[:, :-1], kept[:, :-1])
    assert (changed[0, -1] - kept[0, -1]).norm() == pytest.approx(hook.alpha, rel=1e-4)
    assert hook(None, None, hidden) is hidden


def test_operations_are_counted(bench):
    """A product's count is 2 n^3; a step through the model needs at least two operations a weight and row."""
    rate, found = limits.measure_limits(bench, rows=4, steps=2)
    assert rate > 0 and len(found) == 2
    weights = sum(p.numel() for p in bench.model.parameters() if p.dim() == 2)
    assert found[1].flop >= 2 * weights * 4 * 2
    assert all(sum(limit.shares.values()) == pytest.approx(1, abs=0.05) for limit in found)
    counted = limits.limit_of("product", lambda: torch.ones(8, 8) @ torch.ones(8, 8))
    assert counted.flop == 2 * 8**3


def test_slopes_are_read_off_the_figure(tmp_path):
    """A cost that grows with the square has slope 2 and is said to grow faster than in proportion."""
    sizes = growth.sizes_between(1, 64, 4)
    assert sizes == [1, 4, 16, 64]
    lines = [growth.Growth("rows", "test", sizes, [size**power for size in sizes]) for power in (2.0, 1.0, 0.0)]
    assert [line.slope() for line in lines] == pytest.approx([2, 1, 0], abs=1e-9)
    said = growth.in_words(lines).splitlines()
    for words, line in zip(("faster than in proportion", "grows in proportion", "hardly"), said, strict=True):
        assert words in line
    growth.plot_growth(lines, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_a_row_without_a_second_side_has_no_ratio():
    assert Row("a", 2.0, 6.0, "3 x", True, "").as_json()["ratio"] == 3
    assert Row("a", 2.0, None, "", None, "").as_json()["ratio"] is None


def test_a_sample_is_spread_by_length():
    prompts = [[0] * length for length in (5, 1, 4, 2, 3)]
    assert spread(prompts, 3) == [1, 4, 0]
    assert sorted(spread(prompts, 9)) == [0, 1, 2, 3, 4]


def test_the_command_prints_rows_and_writes_results(tmp_path, tiny_lfm2, tiny_folder, prompts):
    """One run over everything, on an adapter saved for the tiny model."""
    adapter = fit_adapter(tiny_lfm2, prompts, DOMAINS).adapter
    profile = choose_profile(str(tiny_folder), hub=False, gpu=False)[0]
    tools = load_tools(BENCHMARKS.parent / "data" / "tools.json")
    adapter.config |= {"profile": profile_to_json(profile), "tools": tools_to_json(tools)}
    adapter.save(tmp_path / "assets")
    environment = {name: value for name, value in os.environ.items() if name != "ASA_ALPACA"}
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--json", "--quick"]
    done = subprocess.run(
        [*command, "--assets", str(tmp_path / "assets"), "--out", str(tmp_path / "out")],
        capture_output=True, text=True, env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["rows"]
    assert len(found) == 11
    for row in found:
        assert list(row) == ["work", "ours_s", "theirs_s", "ratio", "reach", "equal"]
        assert row["ours_s"] > 0 and row["equal"] in (True, None)
        if row["theirs_s"] is not None:
            assert np.isclose(row["ratio"], row["theirs_s"] / row["ours_s"])
    text = (tmp_path / "out" / "results.md").read_text()
    assert all(row["work"] in text for row in found)
    assert "quick run" in text and "Distance to the limit" in text and "slope" in text
    assert (tmp_path / "out" / "growth.png").stat().st_size > 10_000


def test_a_quick_run_never_replaces_real_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick"])
    with pytest.raises(SystemExit):
        run.main()
    assert "--out" in capsys.readouterr().err


def test_every_way_of_steering_has_its_cost(bench, monkeypatch):
    """Beside the same answers without steering, alone and side by side."""
    for name, value in {"ROUNDS": 1, "TOKENS": 2, "ALONE": 2, "TOGETHER": 4, "BLOCKS": (1, 2)}.items():
        monkeypatch.setattr(answers, name, value)
    monkeypatch.setitem(bench.adapter.config, "trigger_id", bench.trigger_id)
    text = answers.page({"tiny": bench})
    found = [line.split("|")[2].strip() for line in text.splitlines() if line.startswith("| tiny") and " ms " in line]
    cascades = [f"a push at every token, {blocks} blocks" for blocks in (1, 2)]
    assert found == [*answers.WAYS, *answers.WAYS[:2], *cascades]


def test_readers_are_fitted_with_more_and_more_of_the_requests(tiny_llama, tiny_tokenizer, prompts, monkeypatch):
    """Beside all else; with none and with all of them once, else as often as is drawn."""
    assistant = tiny_assistant(tiny_llama, tiny_tokenizer, prompts)
    monkeypatch.setattr(readers, "SIZES", (0, 40))
    fits = []
    given = [request for request in readers.further_requests(str(BENCHMARKS.parent / "data"), list(DOMAINS))]
    some = [request for request in given if request.source.startswith("readers.jsonl")][:80]
    monkeypatch.setattr(readers, "further_requests", lambda *_: some)
    monkeypatch.setattr(readers, "fit_readers", lambda states, *rest: fits.append(len(states)) or fit(states, *rest))
    fit = probes.fit_readers
    rows = readers.curve(assistant, (0.1, 1.0), "")
    assert [row[0] for row in rows] == [0, 40, len(some)] and all(len(row) == 5 for row in rows)
    base = fits[0]
    assert fits == [base, *[base + 40] * readers.DRAWS, base + len(some)]  # each once for both sets
