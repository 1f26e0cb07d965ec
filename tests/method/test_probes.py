"""Probes: they read what is there and not what is not, and assembled probes are the formula they stand for."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from asa.method.layers import PLATEAU, LayerReading, ReadError, is_constant, length_control, plateau_layer, sweep_layers
from asa.method.probes import PROBE_C, PROBE_OWN, choose_probe, fit_readers
from asa.support.threads import one_thread

HIDDEN = 12
NAMES = ["math", "code", "search"]


def separable(count: int, seed: int, strength: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """States `[count, HIDDEN]` whose first coordinate tells the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    states = rng.standard_normal((count, HIDDEN)).astype(np.float32)
    states[:, 0] += strength * labels
    return states, labels


def stacked(*layers: np.ndarray) -> np.ndarray:
    return np.stack(layers, axis=1)


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, HIDDEN)).astype(np.float32)


def template_tail(count: int) -> np.ndarray:
    """The same state for every prompt, up to rounding."""
    row = np.linspace(1, 2, HIDDEN, dtype=np.float32)
    return np.tile(row, (count, 1)) + 1e-5 * noise(count, 9)


def test_the_sweep_reads_what_is_there_and_names_what_is_constant():
    fit, fit_labels = separable(300, 1)
    valid, valid_labels = separable(300, 2)
    readings = sweep_layers(
        stacked(template_tail(300), noise(300, 3), fit), fit_labels,
        stacked(template_tail(300), noise(300, 4), valid), valid_labels, seed=0,
    )  # fmt: skip
    assert [reading.layer for reading in readings] == [0, 1, 2]
    assert [reading.constant for reading in readings] == [True, False, False]
    assert np.isnan(readings[0].auc) and np.isnan(readings[0].shuffled)
    assert 0.4 < readings[1].auc < 0.6
    assert readings[2].auc > 0.98
    for reading in readings[1:]:
        assert 0.3 < reading.shuffled < 0.7


def test_shuffled_labels_are_near_a_half_on_average():
    """One shuffle may be lucky; ten are not."""
    fit, fit_labels = separable(200, 1)
    valid, valid_labels = separable(200, 2)
    found = [
        sweep_layers(fit[:, None], fit_labels, valid[:, None], valid_labels, seed)[0].shuffled for seed in range(10)
    ]
    assert abs(np.mean(found) - 0.5) < 0.2
    assert np.std(found) > 0  # the seed does something


def test_the_sweep_scores_valid_and_not_what_was_fitted():
    """Many noise features and few rows: perfect on the fitted rows, chance on others."""
    rng = np.random.default_rng(0)
    fit, valid = rng.standard_normal((2, 40, 1, 500)).astype(np.float32)
    labels = np.arange(40) % 2
    (reading,) = sweep_layers(fit, labels, valid, labels, seed=0)
    assert 0.2 < reading.auc < 0.8


def test_a_state_that_is_not_finite_is_refused():
    fit, labels = separable(40, 1)
    for bad in (np.nan, np.inf):
        broken = fit.copy()
        broken[3, 2] = bad
        for pair in ((broken, fit), (fit, broken)):
            with pytest.raises(ValueError, match="NaN or infinity from layer 0 on: load the model in another dtype"):
                sweep_layers(pair[0][:, None], labels, pair[1][:, None], labels, seed=0)


def test_a_valid_of_one_label_is_refused():
    """There is no AUC to choose a layer or a probe by."""
    fit, labels = separable(40, 1)
    for alike in (np.zeros(40, int), np.ones(40, int)):
        with pytest.raises(ReadError, match="VALID has requests of one label only, so there is no AUC"):
            sweep_layers(fit[:, None], labels, fit[:, None], alike, seed=0)
        with pytest.raises(ReadError, match="VALID has requests of one label only, so there is no AUC"):
            choose_probe(fit, labels, ["d"] * 40, fit, alike, ["d"])


def test_nothing_but_constant_layers_is_refused():
    states, labels = stacked(template_tail(40)), np.arange(40) % 2
    with pytest.raises(ValueError, match="every layer"):
        sweep_layers(states, labels, states, labels, seed=0)


def test_constant_is_judged_relative_to_the_states_size():
    for size in (1e-3, 1.0, 1e4):
        assert is_constant(size * template_tail(20))
        assert not is_constant(size * noise(20, 1))
    one_coordinate = template_tail(20)
    one_coordinate[:, 5] += np.linspace(0, 0.1, 20)
    assert not is_constant(one_coordinate)
    assert is_constant(np.zeros((20, HIDDEN), np.float32))


def test_length_control_reads_length_only():
    long, short = np.arange(100) + 200, np.arange(100) + 20
    labels = np.repeat([1, 0], 100)
    assert length_control([*long, *short], labels, [*long[::2], *short[::2]], np.repeat([1, 0], 50)) == 1.0
    assert length_control([*short, *long], labels, [*long[::2], *short[::2]], np.repeat([1, 0], 50)) == 0.0
    assert length_control([7] * 200, labels, [7] * 200, labels) == 0.5


def reading(layer: int, auc: float, constant: bool = False) -> LayerReading:
    return LayerReading(layer, auc, 0.5, constant)


def test_the_plateau_layer_is_the_deepest_near_the_best():
    assert PLATEAU == 0.005
    nan = float("nan")
    readings = [reading(0, nan, True), reading(1, 0.97), reading(2, 0.98), reading(3, 0.9751), reading(4, 0.9749)]
    assert plateau_layer(readings) == 3
    assert plateau_layer(readings[:3]) == 2
    assert plateau_layer([*readings, reading(5, nan, True)]) == 3
    assert plateau_layer([reading(0, 0.9), reading(1, 0.5)]) == 0


def three_domains(count: int = 240, seed: int = 0):
    """States with a domain's offset, where each domain's label lies along its own direction and a common one."""
    rng = np.random.default_rng(seed)
    place = np.arange(count) % 3
    labels = (np.arange(count) // 3) % 2
    states = rng.standard_normal((count, HIDDEN)) * 1.5 + 3
    states[np.arange(count), place] += 6
    states[np.arange(count), 3 + place] += 4 * labels
    states[:, 7] += 2 * labels
    return states.astype(np.float32), labels, [NAMES[i] for i in place], place


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("own", PROBE_OWN)
def test_an_assembled_probe_is_the_explicit_formula(own):
    states, labels, domains, place = three_domains()
    readers = fit_readers(states, labels, domains, NAMES, 1e-2, own)
    z = (states.astype(np.float64) - readers.scaler.mean_) / readers.scaler.scale_
    for name in NAMES:
        probe = readers.probes[name]
        explicit = sigmoid(z @ probe.coef_[0] + probe.intercept_[0])
        found = probe.predict_proba(readers.scaler.transform(states))
        assert np.allclose(found[:, 1], explicit, atol=1e-5)
        assert np.allclose(found.sum(axis=1), 1)
    routed = np.argmax(z @ readers.router.coef_.T + readers.router.intercept_, axis=1)
    assert (readers.route(states) == routed).all()
    assert (routed == place).mean() > 0.9
    each = np.stack([sigmoid(z @ of.coef_[0] + of.intercept_[0]) for of in map(readers.probes.get, NAMES)], axis=1)
    assert np.allclose(readers.p_tool(states, routed), each[np.arange(len(z)), routed], atol=1e-5)
    odds = np.exp(z @ readers.router.coef_.T + readers.router.intercept_)
    assert np.allclose(readers.p_tool(states), (odds * each).sum(axis=1) / odds.sum(axis=1), atol=1e-5)


def test_a_router_in_doubt_asks_all_probes():
    """Halfway between two domains whose probes contradict each other, both count alike, not the likelier alone."""
    states, labels, domains, _ = three_domains()
    readers = fit_readers(states, labels, domains, NAMES, 1e-2, 1.0)
    router, between = readers.router, readers.scaler.mean_[None].astype(np.float32)
    router.coef_, router.intercept_ = 0 * router.coef_, np.array([0.001, 0.0, -50.0])
    for name, bias in zip(NAMES, (4.0, -4.0, 4.0), strict=True):
        readers.probes[name].intercept_ = np.array([bias])
    assert readers.p_tool(between) == pytest.approx(0.5, abs=1e-3)
    assert readers.p_tool(between, readers.route(between)) == pytest.approx(0.982, abs=1e-3)


@pytest.mark.parametrize("own", [0.5, 1.0, 4.0])
def test_a_domains_probe_is_the_joint_regression_on_its_block(own):
    """One logistic regression on `[z, own * z in the domain's block]`, written out here with explicit blocks."""
    states, labels, domains, place = three_domains()
    readers = fit_readers(states, labels, domains, NAMES, 1e-2, own)
    z = StandardScaler().fit_transform(states.astype(np.float64))
    wide = np.hstack([z, *[own * z * (place == d)[:, None] for d in range(3)]])
    joint = LogisticRegression(C=1e-2, max_iter=1000, tol=1e-8).fit(wide, labels)
    for d, name in enumerate(NAMES):
        blocks = np.hstack([z, *[own * z * (e == d) for e in range(3)]])
        assert np.allclose(readers.probes[name].decision_function(z), joint.decision_function(blocks), atol=5e-3)


def test_a_fit_takes_one_blas_thread_and_gives_the_others_back(monkeypatch):
    """Its products are too small for more; torch has threads of its own."""

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    states, labels, domains, _ = three_domains()
    seen, fit = [], LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", lambda *given: seen.append(threads()) or fit(*given))
    with threadpool_limits(2, user_api="blas"):
        fit_readers(states, labels, domains, NAMES, 1e-2, 1.0)
        assert seen == [{1}, {1}] and threads() == {2}
        with one_thread():  # asked for twice
            fit_readers(states, labels, domains, NAMES, 1e-2, 1.0)
        assert threads() == {2}


def test_own_zero_gives_every_domain_the_same_probe():
    states, labels, domains, _ = three_domains()
    readers = fit_readers(states, labels, domains, NAMES, 1e-2, 0.0)
    common = LogisticRegression(C=1e-2, max_iter=1000).fit(readers.scaler.transform(states), labels)
    for name in NAMES:
        assert np.array_equal(readers.probes[name].coef_, readers.probes["math"].coef_)
        assert np.allclose(readers.probes[name].coef_, common.coef_)
        assert np.allclose(readers.probes[name].intercept_, common.intercept_)


def test_a_large_own_approaches_independent_probes():
    """With the common part priced out, a domain's weights are those of a regression on its rows alone."""
    states, labels, domains, place = three_domains(600)
    own, strength = 100.0, 1e-6
    readers = fit_readers(states, labels, domains, NAMES, strength, own)
    z = readers.scaler.transform(states).astype(np.float64)
    for d, name in enumerate(NAMES):
        rows = place == d
        alone = LogisticRegression(C=strength * own**2, max_iter=1000).fit(z[rows], labels[rows])
        one, two = readers.probes[name].coef_[0], alone.coef_[0]
        assert one @ two / np.linalg.norm(one) / np.linalg.norm(two) > 0.98
        assert 0.8 < np.linalg.norm(one) / np.linalg.norm(two) < 1.25
    shared = fit_readers(states, labels, domains, NAMES, strength, 0.0).probes
    first, second = readers.probes["math"].coef_[0], readers.probes["code"].coef_[0]
    assert first @ second / np.linalg.norm(first) / np.linalg.norm(second) < 0.9
    assert np.array_equal(shared["math"].coef_, shared["code"].coef_)


def test_a_probe_follows_the_order_of_the_names_not_of_the_rows():
    states, labels, domains, _ = three_domains()
    mirrored = fit_readers(states, labels, domains, NAMES[::-1], 1e-2, 1.0)
    plain = fit_readers(states, labels, domains, NAMES, 1e-2, 1.0)
    assert mirrored.domains == NAMES[::-1]
    assert (mirrored.route(states) == 2 - plain.route(states)).all()
    for name in NAMES:
        assert np.allclose(mirrored.probes[name].coef_, plain.probes[name].coef_, atol=1e-3)
    assert np.allclose(mirrored.p_tool(states), plain.p_tool(states), atol=1e-3)


def test_a_single_domain_is_always_routed_to():
    states, labels = separable(100, 1)
    readers = fit_readers(states, labels, ["only"] * 100, ["only"], 1e-2, 1.0)
    assert (readers.route(100 * noise(50, 2)) == 0).all()
    own = readers.probes["only"].predict_proba(readers.scaler.transform(states))[:, 1]
    np.testing.assert_allclose(readers.p_tool(states), own, rtol=1e-6)
    assert roc_auc_score(labels, readers.p_tool(states)) > 0.98


def test_two_domains_are_routed():
    """Two classes are a regression of another shape than three."""
    states, labels, domains, place = three_domains()
    two = place < 2
    readers = fit_readers(states[two], labels[two], [d for d in domains if d != "search"], NAMES[:2], 1e-2, 1.0)
    assert (readers.route(states[two]) == place[two]).mean() > 0.9


def test_the_mean_norm_is_that_of_the_states():
    states = np.array([[3, 4], [6, 8], [0, 1], [1, 0]], np.float32)
    readers = fit_readers(states, np.array([0, 1, 0, 1]), ["d"] * 4, ["d"], 1e-2, 0.0)
    assert readers.mean_norm == pytest.approx((5 + 10 + 1 + 1) / 4)


def test_choose_probe_returns_from_the_grids_and_ties_go_to_the_stronger():
    states, labels = separable(120, 1, strength=50.0)  # every setting is perfect
    strength, own = choose_probe(states, labels, ["d"] * 120, states, labels, ["d"])
    assert (strength, own) == (PROBE_C[0], PROBE_OWN[0]) == (min(PROBE_C), min(PROBE_OWN))


def test_choose_probe_takes_freedom_where_domains_disagree():
    """One direction, opposite meanings: a common probe reads nothing."""
    rng = np.random.default_rng(0)

    def make(count):
        place, labels = np.arange(count) % 2, (np.arange(count) // 2) % 2
        states = rng.standard_normal((count, HIDDEN))
        states[:, 0] += 8 * place
        states[:, 1] += 4 * (2 * labels - 1) * (1 - 2 * place)
        return states.astype(np.float32), labels, [NAMES[i] for i in place]

    fit, fit_labels, fit_domains = make(200)
    valid, valid_labels, _ = make(200)
    strength, own = choose_probe(fit, fit_labels, fit_domains, valid, valid_labels, NAMES[:2])
    assert strength in PROBE_C and own in PROBE_OWN and own > 0
    readers = fit_readers(fit, fit_labels, fit_domains, NAMES[:2], strength, own)
    assert roc_auc_score(valid_labels, readers.p_tool(valid)) > 0.95
    common = fit_readers(fit, fit_labels, fit_domains, NAMES[:2], strength, 0.0)
    assert roc_auc_score(valid_labels, common.p_tool(valid)) < 0.7
