"""The adapter: its decisions against scikit-learn's, what it refuses, and what it leaves behind."""

import copy
import math
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import HIDDEN, fit_adapter, hooks_of, make_lfm2, make_llama
from steered import changed, padded, said, simple

from asa import AdapterError, ASAAdapter
from asa.adapter.decision import gate_of, recall_of_threshold
from asa.method.steering import gates

CALIBRATION = {"unneeded": [0.0, 0.1, 0.2, 0.6, 0.9], "needed": [0.3, 0.8, 0.9, 0.95, 1.0]}

# --- decisions


@pytest.mark.parametrize("names", [("math", "code", "search"), ("math", "code"), ("only",)])
def test_decisions_are_those_of_scikit_learn(tiny_model, prompts, names):
    """Folding scaler, router and probes into one matrix changes no route and no probability."""
    fitted = fit_adapter(tiny_model, prompts, names)
    noise = torch.randn(300, HIDDEN, generator=torch.Generator().manual_seed(0))
    states = fitted.states.mean(0) + 1.5 * fitted.states.std(0) * noise
    states = torch.cat([fitted.states, states])
    routed, p_tool, gate = fitted.adapter.decide(states)
    p = fitted.readers.p_tool(states.numpy())
    assert routed.tolist() == fitted.readers.route(states.numpy()).tolist()
    assert set(routed.tolist()) == set(range(len(names)))
    np.testing.assert_allclose(p_tool.numpy(), p, atol=1e-4)
    if len(names) > 1:  # a router of one domain has nothing to choose
        surest = fitted.readers.router.predict_proba(fitted.readers.scaler.transform(states.numpy())).max(1)
        decisions = fitted.adapter.push(states)[1]
        np.testing.assert_allclose([decision.p_domain for decision in decisions], surest, atol=1e-4)
    assert p.min() < 0.05 and p.max() > 0.95
    tau = fitted.adapter.tau
    clear = np.abs(np.maximum(p, 1 - p) - tau) > 1e-3
    by_hand = np.where(p >= tau, 1, np.where(p <= 1 - tau, -1, 0))
    assert clear.sum() > 200 and set(by_hand) == {-1, 0, 1}
    assert gate.numpy()[clear].tolist() == by_hand[clear].tolist()


def test_every_probe_has_a_say_where_the_config_says_so_and_the_likeliest_domains_alone_where_it_does_not():
    """The router gives e : 1 for the first domain of two; adapters fitted before have no such setting."""
    state = torch.zeros(1, HIDDEN)
    state[0, 0] = 1.0
    weighed, alone = simple([0.9, 0.2], weighs_probes=True), simple([0.9, 0.2])
    assert weighed.decide(state)[1].item() == pytest.approx((math.e * 0.9 + 0.2) / (math.e + 1), abs=1e-6)
    assert changed(weighed, weighs_probes=False).decide(state)[1].item() == pytest.approx(0.9, abs=1e-6)
    assert alone.decide(state)[1].item() == pytest.approx(0.9, abs=1e-6)
    with pytest.raises(AdapterError, match="weighs_probes must be true or false, not 1"):
        changed(alone, weighs_probes=1)


def test_the_gate_at_its_edges():
    """p = tau pushes up, p = 1 - tau pushes down, a hair inside does nothing; at tau = 0.5, 0.5 pushes up."""
    state = torch.zeros(1, HIDDEN)
    for p in (0.6, 0.75, 0.9):
        up, down = simple([p]), simple([1 - p])
        high, low = (adapter.push(state)[1][0].p_tool for adapter in (up, down))
        assert abs(high - p) < 1e-6 and abs(1 - low - p) < 1e-6
        above, below = high + 1e-12, low - 1e-12
        for adapter, tau, gate in ((up, high, 1), (up, above, 0), (down, 1 - low, -1), (down, 1 - below, 0)):
            assert changed(adapter, tau=tau).decide(state)[2].item() == gate
    gates = [simple([p], tau=0.5).decide(state)[2].item() for p in (1e-6, 0.499, 0.5, 0.501, 1 - 1e-6)]
    assert gates == [-1, -1, 1, 1, 1]


def test_the_gate_is_the_one_that_was_tuned():
    """Also where p and 1 - tau differ in their last bit only: what tuning scored is what the adapter does."""
    for tau in (0.5, 0.6, 0.7, 0.8, 0.9):
        chances = np.array([n / 1000 for n in range(1001)] + [1 - tau, tau])
        assert [gate_of(p, tau) for p in chances.tolist()] == gates(chances, tau).tolist()
    assert gate_of(0.1, 0.9) == -1 and 0.1 > 1 - 0.9


def test_no_push_where_the_model_does_what_the_gate_wants(adapter, fitted):
    """All other rows are pushed as ever; the gates stay, and the record says what was seen."""
    plain, before = adapter.push(fitted.states)
    gates = torch.tensor([decision.gate for decision in before])
    assert set(gates.tolist()) == {-1, 0, 1}
    for opens in (gates == 1, gates == -1, torch.ones(len(gates), dtype=torch.bool)):
        delta, after = adapter.push(fitted.states, opens)
        agreed = gates == torch.where(opens, 1, -1)
        assert torch.equal(delta, plain * ~agreed[:, None])
        assert [decision.gate for decision in after] == gates.tolist()
        assert [decision.dose > 0 for decision in after] == ((gates != 0) & ~agreed).tolist()
        assert [decision.opens for decision in after] == opens.tolist()
    assert {decision.opens for decision in before} == {None}


def test_a_wanted_share_of_false_calls_sets_the_gate():
    """One threshold, from the quantiles that travel with the adapter; nothing is left to the model."""
    state = torch.zeros(1, HIDDEN)
    for fpr, threshold in ((0.25, 0.6), (0.5, 0.2), (0.125, 0.75), (0.999, 0.0004)):
        for p, gate in ((threshold + 1e-3, 1), (threshold - 1e-3, -1)):
            if not 0 < p < 1:
                continue
            wanted = changed(simple([p]), calibration=CALIBRATION).with_target_fpr(fpr)
            assert wanted.threshold == pytest.approx(threshold) and wanted.decide(state)[2].item() == gate


def test_what_a_threshold_costs_is_read_from_the_requests_that_need_a_tool():
    """By the other quantiles, between them in proportion."""
    config = {"calibration": {"unneeded": [0.0, 1.0], "needed": [0.2, 0.6, 1.0]}}
    for threshold, share in ((0.1, 1.0), (0.2, 1.0), (0.4, 0.75), (0.6, 0.5), (0.8, 0.25), (1.0, 0.0)):
        assert recall_of_threshold(config, threshold) == pytest.approx(share)
    sure = {"calibration": {"needed": [0.5, 1.0, 1.0, 1.0]}}
    assert recall_of_threshold(sure, 1.0) == pytest.approx(2 / 3)
    with pytest.raises(AdapterError, match="fit again"):
        recall_of_threshold({"calibration": {"unneeded": [0.0, 1.0]}}, 0.5)


def test_the_threshold_stays_until_tau_is_set(adapter, tmp_path):
    """Through files and another dose; the adapter that was asked keeps its own gate."""
    known = changed(adapter, calibration=CALIBRATION)
    wanted = known.with_target_fpr(0.25)
    wanted.save(tmp_path)
    assert known.threshold is None and wanted.threshold == wanted.tuned(dose=0.1).threshold == pytest.approx(0.6)
    assert ASAAdapter.from_pretrained(tmp_path).threshold == wanted.threshold
    assert wanted.tuned(tau=0.7).threshold is None and wanted.tuned(tau=0.7).tau == 0.7


@pytest.mark.parametrize("fpr", [0, 1, -0.1, 1.5, float("nan"), True, "0.1", None])
def test_a_share_that_is_none_is_refused(adapter, fpr):
    with pytest.raises(AdapterError, match="between 0 and 1"):
        changed(adapter, calibration=CALIBRATION).with_target_fpr(fpr)


@pytest.mark.parametrize(
    "calibration", [None, {}, 5, {"unneeded": []}, {"unneeded": "x"}, {"unneeded": [0.1, None]}, {"unneeded": [[0.1]]},
                    {"unneeded": [float("nan")] * 3}, {"unneeded": [0.9, 0.1]}, {"unneeded": [0.1, 1.2]}]
)  # fmt: skip
def test_a_calibration_that_is_none_is_refused(adapter, calibration):
    with pytest.raises(AdapterError, match=r"fit again|save it again"):
        changed(adapter, calibration=calibration).with_target_fpr(0.05)
    with pytest.raises(AdapterError, match="fit again"):
        adapter.with_target_fpr(0.05)


def test_every_row_has_its_own_route_and_push():
    """Domain, gate, vector and dose of one batch, by hand; a dose of 0 where nothing is pushed."""
    adapter = simple([0.9, 0.5, 0.2])
    hidden = 3 * torch.eye(HIDDEN)[[2, 1, 0, 2]]
    delta, decisions = adapter.push(hidden)
    assert [(d.domain, round(d.p_tool, 4), d.gate, d.layer, d.dose) for d in decisions] == [
        ("c", 0.2, -1, 1, 0.5), ("b", 0.5, 0, 1, 0.0), ("a", 0.9, 1, 1, 0.5), ("c", 0.2, -1, 1, 0.5)
    ]  # fmt: skip
    unit = torch.eye(HIDDEN)
    assert torch.equal(delta, torch.stack([-2 * unit[2], 0 * unit[1], 2 * unit[0], -2 * unit[2]]))
    assert delta.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_decides_in_fp32_whatever_the_model_holds(adapter, fitted, dtype):
    """The state is what the model rounds, nothing else."""
    states = fitted.states.to(dtype)
    for half, full in zip(adapter.decide(states), adapter.decide(states.float()), strict=True):
        assert torch.equal(half, full)


def test_states_that_are_not_finite_are_refused(adapter, fitted):
    """A comparison with NaN would be a silent gate of 0."""
    for bad in (float("nan"), float("inf")):
        states = fitted.states.clone()
        states[2, 5] = bad
        with pytest.raises(ValueError, match="not finite"):
            adapter.decide(states)


# --- what is refused, and what is left behind


@pytest.mark.parametrize("way", ["generate", "forward"])
def test_right_padding_is_refused(tiny_model, adapter, prompts, way):
    """Its last column is a pad; nothing was decided on it."""
    inputs, before = padded(prompts[:3], side="right"), hooks_of(tiny_model)
    with pytest.raises(ValueError, match=r"padded on the right: set tokenizer\.padding_side = 'left'"):
        with adapter.steer(tiny_model) as trace:
            said(tiny_model, inputs) if way == "generate" else tiny_model(**inputs)
    assert trace.decisions == []
    assert hooks_of(tiny_model) == before


def test_right_padding_is_refused_whatever_the_cache(tiny_model, adapter, prompts):
    """With a static cache generate makes the mask itself before the model sees it."""
    with pytest.raises(ValueError, match="padded on the right"), adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:3], side="right"), cache_implementation="static")


@pytest.mark.shows("An error inside `steer`, in the model or in the adapter leaves no hook and no changed bit")
def test_nothing_is_left_behind(tiny_model, adapter, prompts):
    """After a normal end, an exception inside, one inside generate, and a refusal: own hooks and own generate only."""
    before, plain = hooks_of(tiny_model), said(tiny_model, padded(prompts[:3]))

    def clean() -> bool:
        return hooks_of(tiny_model) == before and "generate" not in vars(tiny_model)

    with adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:3]))
        assert hooks_of(tiny_model) != before
    assert clean()
    with pytest.raises(KeyError), adapter.steer(tiny_model):
        raise KeyError
    assert clean()
    with pytest.raises((ValueError, RuntimeError, TypeError)), adapter.steer(tiny_model):
        said(tiny_model, padded(prompts[:3]), no_such_option=1)
    assert clean()
    other = changed(adapter, model=adapter.config["model"] | {"vocab_size": 7})
    with pytest.raises(AdapterError), other.steer(tiny_model):
        pass
    assert clean()
    for layer in (99, -1):
        with pytest.raises(AdapterError, match="layer"), changed(adapter, layer=layer).steer(tiny_model):
            pass
        assert clean()
    assert said(tiny_model, padded(prompts[:3])) == plain
    with adapter.steer(tiny_model) as trace:  # and the model is free again
        said(tiny_model, padded(prompts[:3]))
    assert len(trace.decisions) == 3


@pytest.mark.slow
@pytest.mark.shows("Of threads that want one model at the same moment one gets in, the others are refused")
def test_threads_that_come_at_the_same_moment(tiny_llama, prompts, monkeypatch, tried):
    """Only one gets in: looking whether a model is free and taking it are one step."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    monkeypatch.setattr(ASAAdapter, "check_model", lambda self, model: barrier.wait(20))
    interval, before = sys.getswitchinterval(), hooks_of(tiny_llama)
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(40):
            barrier, entered, leave = threading.Barrier(4), [], threading.Event()

            def enter(entered=entered, leave=leave):
                try:
                    with warnings.catch_warnings(action="ignore"), adapter.steer(tiny_llama):
                        entered.append(True)
                        leave.wait(20)
                except AdapterError:
                    entered.append(False)

            threads = [threading.Thread(target=enter) for _ in range(4)]
            for thread in threads:
                thread.start()
            while len(entered) < 4:
                leave.wait(0.001)
            leave.set()
            for thread in threads:
                thread.join(20)
            assert sorted(entered) == [False, False, False, True]
    finally:
        leave.set()
        sys.setswitchinterval(interval)
    assert hooks_of(tiny_llama) == before
    tried(4 * 40, "threads")


@pytest.mark.slow
def test_compiled_models_are_refused(tiny_llama, prompts):
    """All forms; compiled code never sees a later hook. Nothing is compiled here: that happens when it is called."""
    adapter = fit_adapter(tiny_llama, prompts).adapter
    in_place = copy.deepcopy(tiny_llama)
    in_place.compile()
    forward = copy.deepcopy(tiny_llama)
    forward.forward = torch.compile(forward.forward)  # as the documentation of transformers shows it
    for compiled in (torch.compile(tiny_llama), in_place, forward):
        with pytest.raises(AdapterError, match="compiled"), adapter.steer(compiled):
            pass


def test_a_block_without_an_answer_warns(tiny_model, adapter, prompts):
    """The likely mistake: the model was called outside. An answer, or an error of the caller's, does not warn."""
    with pytest.warns(UserWarning, match="nothing was generated") as caught:
        with adapter.steer(tiny_model):
            pass
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(KeyError), adapter.steer(tiny_model):
            raise KeyError
        with adapter.steer(tiny_model):
            said(tiny_model, padded(prompts[:1]))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"hidden_size": 64}, "hidden_size 32 .* 64"),
        ({"num_hidden_layers": 5}, "num_hidden_layers 4 .* 5"),
        ({"vocab_size": 401}, "vocab_size 400 .* 401"),
        ({"seed": 1}, "other weights"),
    ],
)
@pytest.mark.shows("An adapter refuses a model of another width, depth or vocabulary, or of other weights")
def test_another_model_is_refused(tiny_llama, prompts, changes, names):
    """By width, depth, vocabulary and, where all of these fit, by its embeddings; steering asks as well."""
    adapter, other = fit_adapter(tiny_llama, prompts).adapter, make_llama(**changes)
    with pytest.raises(AdapterError, match=names):
        adapter.check_model(other)
    with pytest.raises(AdapterError, match=names), adapter.steer(other):
        pass
    adapter.check_model(tiny_llama)


def test_another_kind_of_model_is_refused(tiny_llama, prompts):
    """Of the same width, depth and vocabulary."""
    other = make_lfm2(("conv", "conv", "full_attention", "conv"))
    with pytest.raises(AdapterError, match=r"model_type llama .* lfm2"):
        fit_adapter(tiny_llama, prompts).adapter.check_model(other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_model_in_another_dtype_is_accepted(tiny_model, adapter, dtype):
    """Rounded weights are the same weights."""
    adapter.check_model(copy.deepcopy(tiny_model).to(dtype))
