"""Tuning: settings are scored by what the model does after the push, and the best one is chosen as promised."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from asa.method.layers import MOST_LAYERS, LayerReading, ReadError, layers_to_steer
from asa.method.steering import gates, replay_triggers
from asa.method.tuning import BETAS, DOSES, TAUS, Setting, best_setting, settings_to_json, sweep_settings

TRIGGER = 2
LAYER = 1


class FakeBatch:
    """A batch of a model that calls a tool where the first coordinate of the state is above 0."""

    def __init__(self, rows: list[int]):
        self.rows = rows
        self.own_mask = torch.ones(len(rows), 1, dtype=torch.bool)
        self.seen: list[tuple[int, torch.Tensor]] = []

    def replay(self, layer: int, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.append((layer, hidden))
        logits = torch.zeros(len(hidden), 4)
        logits[:, TRIGGER] = hidden[:, 0]
        return logits


def test_replay_puts_every_row_back_in_its_place():
    """Batches hold rows in another order than the requests."""
    states = np.zeros((5, 3, 2), np.float32)
    states[:, LAYER, 0] = [-1, -1, 1, 1, -3]
    states[:, 0, 0] = states[:, 2, 0] = 99  # other layers do not count
    push = np.zeros((5, 2), np.float32)
    push[:, 0] = [2, 0, -2, 0, 2]
    batches = [FakeBatch([4, 0, 2]), FakeBatch([3, 1])]
    called = replay_triggers(batches, states, LAYER, push, TRIGGER)
    assert called.tolist() == [True, False, False, True, False]
    assert called.dtype == bool
    ((layer, hidden),) = batches[0].seen
    assert layer == LAYER and hidden[:, 0].tolist() == [-1, 1, -1]


class FakeReaders:
    """Readers that look their answers up by the second coordinate, which is the row's number."""

    def __init__(self, mean_norm: float, routed: list[int], p_tool: list[float]):
        self.domains, self.mean_norm = ["math", "code"], mean_norm
        self.routed, self.probabilities = np.array(routed), np.array(p_tool)

    def route(self, states):
        return self.routed[states[:, 1].astype(int)]

    def p_tool(self, states):
        return self.probabilities[states[:, 1].astype(int)]


def test_a_sweep_worked_out_by_hand():
    """Four requests; unsteered the model is wrong about all of them, and a push of more than 1.2 turns it.

    Rows 0 and 3 are math, whose vector turns the model; 1 and 2 are code, whose vector does nothing; the global one
    turns it. p(tool) is .95, .65, .35, .15: rows 1 and 2 are gated up to tau .6, row 3 up to .8, row 0 up to .9.
    """
    states = np.zeros((4, 2, 3), np.float32)
    states[:, LAYER, 0] = [-1.2, -1.2, 1.2, 1.2]
    states[:, LAYER, 1] = range(4)
    unsteered = np.array([False, False, True, True])
    labels = [1, 1, 0, 0]
    readers = {LAYER: FakeReaders(10.0, [0, 1, 1, 0], [0.95, 0.65, 0.35, 0.15])}
    axis = np.eye(3, dtype=np.float32)
    directions = {("action", LAYER): {"global": axis[0], "math": axis[0], "code": axis[2]}}
    settings = sweep_settings(
        [FakeBatch([3, 0]), FakeBatch([2, 1])], states, unsteered, labels, readers, directions, TRIGGER
    )

    def turned(dose: float, beta: float, tau: float) -> set[int]:
        gated = {0.5: {0, 1, 2, 3}, 0.6: {0, 1, 2, 3}, 0.7: {0, 3}, 0.8: {0, 3}, 0.9: {0}}[tau]
        math = dose >= 0.2  # 10 * .1 is too little, 10 * .2 is enough
        code = {0.0: False, 0.5: dose >= 0.2, 1.0: dose >= 0.2}[beta]  # beta .5: 10 * .2 * .707 = 1.41
        return gated & (({0, 3} if math else set()) | ({1, 2} if code else set()))

    outcome = {  # which rows are right -> F1, FPR
        (): (0.0, 1.0), (0,): (0.4, 1.0), (0, 3): (0.5, 0.5), (0, 1, 2, 3): (1.0, 0.0),
    }  # fmt: skip
    assert len(settings) == len(BETAS) * len(DOSES) * len(TAUS)
    for setting in settings:
        assert (setting.direction, setting.layer) == ("action", LAYER)
        right = turned(setting.dose, setting.beta, setting.tau)
        assert (setting.f1, setting.fpr) == pytest.approx(outcome[tuple(sorted(right))]), setting
    assert len({(s.dose, s.beta, s.tau) for s in settings}) == len(settings)


def test_the_push_is_dose_times_the_layers_mean_norm_with_the_probes_sign():
    """Two layers of different size: each uses its own readers and its own directions."""
    states = np.zeros((2, 2, 3), np.float32)
    states[:, :, 1] = [[0, 0], [1, 1]]
    readers = {0: FakeReaders(4.0, [0, 1], [0.9, 0.2]), 1: FakeReaders(300.0, [1, 0], [0.2, 0.9])}
    axis = np.eye(3, dtype=np.float32)
    directions = {
        ("action", layer): {"global": axis[0], "math": axis[0], "code": np.array([0, 0, 1], np.float32)}
        for layer in (0, 1)
    }
    batch = FakeBatch([0, 1])
    sweep_settings([batch], states, np.zeros(2, bool), [1, 0], readers, directions, TRIGGER)
    pushes = {0: [], 1: []}
    for layer, hidden in batch.seen:
        pushes[layer].append(hidden.numpy() - states[:, layer])
    assert len(pushes[0]) == len(pushes[1]) == len(BETAS) * len(DOSES)  # one replay serves every tau
    for layer, size in ((0, 4.0), (1, 300.0)):
        found = sorted({round(float(np.linalg.norm(push, axis=1)[0]), 4) for push in pushes[layer]})
        assert found == pytest.approx([size * dose for dose in DOSES])
    domain_only = pushes[0][: len(DOSES)]
    assert [push[0, 0] > 0 and push[1, 2] < 0 for push in domain_only] == [True] * len(DOSES)
    domain_only = pushes[1][: len(DOSES)]
    assert [push[0, 2] < 0 and push[1, 0] > 0 for push in domain_only] == [True] * len(DOSES)


GOOD = Setting("action", 3, 0.2, 0.5, 0.7, f1=0.8, fpr=0.1)


def test_the_best_setting_has_the_best_f1_among_those_that_keep_the_fpr():
    settings = [GOOD, replace(GOOD, layer=4, f1=0.95, fpr=0.21), replace(GOOD, layer=5, f1=0.7, fpr=0.0)]
    assert best_setting(settings, 0.2) == GOOD
    assert best_setting(settings, 0.21).layer == 4  # as high as unsteered is allowed
    assert best_setting(settings, 0.05).layer == 5


def test_a_tie_goes_to_the_smaller_dose_then_to_the_smaller_fpr():
    settings = [replace(GOOD, dose=0.5, fpr=0.0), GOOD, replace(GOOD, dose=0.35)]
    assert best_setting(settings, 0.2) == GOOD
    assert best_setting(settings[::-1], 0.2) == GOOD
    lower = replace(GOOD, layer=9, fpr=0.05)
    assert best_setting([GOOD, lower], 0.2) == best_setting([lower, GOOD], 0.2) == lower


def test_one_direction_can_be_asked_for():
    other = replace(GOOD, direction="necessity", f1=0.4)
    assert best_setting([GOOD, other], 0.2) == best_setting([GOOD, other], 0.2, "action") == GOOD
    assert best_setting([GOOD, other], 0.2, "necessity") == other


def test_where_none_keeps_the_fpr_the_lowest_is_taken():
    settings = [
        replace(GOOD, f1=0.9, fpr=0.5),
        replace(GOOD, f1=0.5, fpr=0.3),
        replace(GOOD, f1=0.6, fpr=0.3, dose=0.75),
    ]
    assert best_setting(settings, 0.1) == settings[2]
    assert best_setting([*settings, replace(settings[2], dose=0.05)], 0.1).dose == 0.05


def test_a_rate_without_a_denominator_keeps_no_setting_out():
    """Without requests that need no tool there is no FPR to keep; nothing needed and nothing called is all right."""
    unneeded = [replace(GOOD, fpr=None), replace(GOOD, f1=0.9, dose=0.75, fpr=None)]
    assert best_setting(unneeded, None) == unneeded[1]
    calls_for_nothing = replace(GOOD, f1=0.0, fpr=0.05)
    silent = replace(GOOD, f1=None, fpr=0.0, dose=0.75)
    assert best_setting([calls_for_nothing, silent], 0.2) == silent
    assert best_setting([calls_for_nothing, replace(silent, fpr=0.3)], 0.01) == calls_for_nothing


def readings(*aucs: float | None) -> list[LayerReading]:
    return [LayerReading(i, 0.99 if a is None else a, 0.5, a is None) for i, a in enumerate(aucs)]


def test_layers_to_steer_are_readable_and_never_constant():
    """The best is .95, so .92 is in and .919 is not."""
    assert layers_to_steer(readings(None, None, 0.9, 0.92, 0.919, 0.95, 0.9)) == [3, 5]
    assert layers_to_steer(readings(None, 0.6)) == [1]


def test_the_last_block_is_steered_only_where_nothing_else_can_be_read():
    assert layers_to_steer(readings(0.9, 0.93, 0.95)) == [1]
    assert layers_to_steer(readings(0.5, 0.95)) == [1]


def test_layers_to_steer_are_few_and_spread_over_the_readable_ones():
    found = layers_to_steer(readings(None, *[0.9] * 29))
    assert len(found) == MOST_LAYERS
    assert (found[0], found[-1]) == (1, 28)
    gaps = np.diff(found)
    assert gaps.max() - gaps.min() <= 1
    assert layers_to_steer(readings(*[0.9] * 3)) == [0, 1]


def test_settings_survive_json():
    settings = [GOOD, replace(GOOD, direction="necessity")]
    assert [Setting(**row) for row in json.loads(json.dumps(settings_to_json(settings)))] == settings


def test_the_grids_hold_the_formulas_range():
    """tau in [.5, 1), beta from domain only to global only, doses that do not dwarf the state."""
    assert min(TAUS) == 0.5 and max(TAUS) < 1
    assert {0.0, 1.0} <= set(BETAS)
    assert all(0 < dose < 1 for dose in DOSES) and sorted(DOSES) == list(DOSES)


def test_layers_named_by_hand_are_taken_and_checked():
    readings = [LayerReading(layer, 0.9, 0.5, layer < 2) for layer in range(6)]
    assert layers_to_steer(readings, "5, 2") == [5, 2]
    with pytest.raises(ReadError, match=r"layer 1, chosen by hand, holds the same state.*use one of 2, 3, 4, 5\."):
        layers_to_steer(readings, "3,1")
    for word in ("6", "-1", "two", ""):
        with pytest.raises(ReadError, match=rf"layer '{word}', chosen by hand, is none of this model's: use 0 to 5\."):
            layers_to_steer(readings, f"3,{word}")


def test_the_gate_has_three_values():
    """At tau .5 no request is left alone."""
    assert gates(np.array([0.8, 0.79, 0.21, 0.2]), 0.8).tolist() == [1, 0, 0, -1]
    assert gates(np.array([0.5, 0.49]), 0.5).tolist() == [1, -1]
