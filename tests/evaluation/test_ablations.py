"""Ablations: each variant changes exactly the part it is named after, and is scored by the model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asa.data.scores import confusion
from asa.evaluation.ablations import Steered, run_ablations
from asa.method.directions import mixed
from asa.method.tuning import Setting

TRIGGER, LAYER, HIDDEN = 3, 1, 6
LABELS = [1, 1, 0, 0, 1, 0]
P_TOOL = np.array([[0.9, 0.6, 0.1, 0.4, 0.1, 0.95], [0.1, 0.6, 0.9, 0.4, 0.2, 0.1]])  # by domain
ROUTED = np.array([0, 1, 0, 1, 1, 0])
WEIGHED = np.array([0.9, 0.7, 0.15, 0.4, 0.1, 0.3])  # all probes together
OWN = ["math", "code", "code", "code", "code", "math"]  # the router errs in row 2
GATE = np.array([1, 0, -1, 0, -1, 0])  # tau .8: rows 1, 3 and 5 are left alone
AXIS = np.eye(HIDDEN, dtype=np.float32)
DIRECTIONS = {"global": AXIS[0], "math": AXIS[1], "code": AXIS[2]}
SETTING = Setting("action", LAYER, dose=0.5, beta=0.5, tau=0.8)
ALPHA = 10.0
NAMES = ["math", "code"]


def readers(p_tool, weighed):
    """Readers that know only these six requests: by domain and request, `[2, 6]`, and all domains together, `[6]`."""
    return SimpleNamespace(
        domains=NAMES,
        mean_norm=ALPHA / 0.5,
        route=lambda h: ROUTED,
        p_tool=lambda h, routed=None: weighed if routed is None else p_tool[routed, np.arange(6)],
    )


ONE = np.array([0.1, 0.6, 0.1, 0.9, 0.9, 0.95])
READERS, SHARED = readers(P_TOOL, WEIGHED), readers(np.stack([ONE, ONE]), ONE)


class FakeBatch:
    """A model that calls a tool where the state's first three coordinates add up to more than 0."""

    def __init__(self, rows, pushes):
        self.rows, self.pushes = rows, pushes
        self.own_mask = torch.ones(len(rows), 1, dtype=torch.bool)

    def replay(self, layer, hidden):
        assert layer == LAYER
        self.pushes.append((self.rows, hidden.numpy()))
        logits = torch.zeros(len(hidden), 5)
        logits[:, TRIGGER] = hidden[:, :3].sum(dim=1)
        return logits


@pytest.fixture
def states() -> np.ndarray:
    """What the unsteered model holds: it would call for no request but 1 and 2."""
    states = np.zeros((6, 2, HIDDEN), np.float32)
    states[:, LAYER, 0] = [-1, 1, 1, -1, -1, -1]
    return states


def run(states, seed=0, setting=SETTING):
    """Outcomes and the pushes `[6, HIDDEN]` of every variant, by name."""
    seen = []
    batches = [FakeBatch([5, 0, 3], seen), FakeBatch([1, 2, 4], seen)]
    parts = Steered(setting, READERS, SHARED, DIRECTIONS)
    outcomes = run_ablations(batches, states, parts, OWN, TRIGGER, seed)
    pushed = {}
    for name, first, second in zip(outcomes, seen[::2], seen[1::2], strict=True):
        pushed[name] = np.zeros((6, HIDDEN), np.float32)
        for rows, hidden in (first, second):
            pushed[name][rows] = hidden - states[rows, LAYER]
    return outcomes, pushed


def test_the_published_variants_and_ours(states):
    assert list(run(states)[0]) == [
        "full", "no gate", "+1 only", "-1 only", "routed probe", "one probe", "oracle router",
        "mismatched domains", "random direction 1", "random direction 2", "random direction 3", "global only",
        "domain only",
    ]  # fmt: skip


def test_full_pushes_along_the_mixed_vector_as_gated(states):
    _, pushes = run(states)
    vectors = mixed(DIRECTIONS, SETTING.beta, NAMES)
    assert np.allclose(pushes["full"], ALPHA * GATE[:, None] * vectors[ROUTED], atol=1e-5)


def test_no_gate_pushes_every_request_toward_a_call(states):
    _, pushes = run(states)
    vectors = mixed(DIRECTIONS, SETTING.beta, NAMES)
    assert np.allclose(pushes["no gate"], ALPHA * vectors[ROUTED], atol=1e-5)


def test_global_only_and_domain_only_are_beta_one_and_zero(states):
    _, pushes = run(states)
    domain = np.stack([DIRECTIONS[NAMES[i]] for i in ROUTED])
    assert np.allclose(pushes["global only"], ALPHA * GATE[:, None] * DIRECTIONS["global"], atol=1e-5)
    assert np.allclose(pushes["domain only"], ALPHA * GATE[:, None] * domain, atol=1e-5)


def test_random_directions_have_the_same_length_and_gate(states):
    """Each is one direction for all domains, drawn by the seed; no two are alike."""
    pushed, again, other = run(states)[1], run(states)[1], run(states, seed=1)[1]
    for number in (1, 2, 3):
        push = pushed[f"random direction {number}"]
        assert np.allclose(np.linalg.norm(push, axis=1), ALPHA * np.abs(GATE), atol=1e-4)
        assert np.allclose(push[GATE != 0] * GATE[GATE != 0, None], push[0], atol=1e-5)
        assert np.abs(push[0] / ALPHA).max() < 0.99  # none of the axes
        assert np.array_equal(push, again[f"random direction {number}"])
        assert not np.allclose(push, other[f"random direction {number}"])
        assert not np.allclose(push, pushed[f"random direction {1 + number % 3}"])


def test_variants_are_scored_by_what_the_model_does_after_the_push(states):
    """Not by the probe: row 4 needs a tool, but the probe pushes it away, and row 1 is left alone and calls."""
    results, _ = run(states)
    after = {"full": [1, 1, 0, 0, 0, 0], "no gate": [1] * 6, "global only": [1, 1, 0, 0, 0, 0]}
    for name, outcome in after.items():
        assert results[name].astype(int).tolist() == outcome
    full = confusion(results["full"], LABELS)
    assert full["tp"] == 2 and full["fp"] == 0 and confusion(results["no gate"], LABELS)["fpr"] == 1.0


def test_tau_decides_who_is_pushed(states):
    everyone = Setting("action", LAYER, dose=0.5, beta=0.5, tau=0.5)
    _, pushes = run(states, setting=everyone)
    signs = np.sign(pushes["global only"][:, 0])
    assert signs.tolist() == [1, 1, -1, -1, -1, -1]


def test_boolean_gates_push_one_way_only(states):
    _, pushed = run(states)
    up, down = pushed["+1 only"], pushed["-1 only"]
    assert np.allclose(up[GATE != 1], 0) and np.allclose(down[GATE != -1], 0)
    assert np.allclose(up + down, pushed["full"])


def test_the_routed_probe_is_asked_alone(states):
    """Row 5's likeliest domain is sure of what all together are not."""
    _, pushed = run(states)
    vectors = mixed(DIRECTIONS, SETTING.beta, NAMES)[ROUTED]
    gate = np.array([1, 0, -1, 0, -1, 1])
    assert np.allclose(pushed["routed probe"], ALPHA * gate[:, None] * vectors, atol=1e-5)


def test_one_probe_changes_the_gate_and_keeps_the_routed_vector(states):
    """Row 3 is pushed where the domains' own probes left it alone, row 4 the other way, row 0 too."""
    _, pushed = run(states)
    vectors = mixed(DIRECTIONS, SETTING.beta, NAMES)[ROUTED]
    gate = np.array([-1, 0, -1, 1, 1, 1])
    assert np.allclose(pushed["one probe"], ALPHA * gate[:, None] * vectors, atol=1e-5)


def test_the_oracle_router_takes_the_domains_probe_and_vector(states):
    """Row 2 is a code request that was routed to math: its own probe wants a call."""
    _, pushed = run(states)
    vectors = mixed(DIRECTIONS, SETTING.beta, NAMES)[[NAMES.index(domain) for domain in OWN]]
    gate = np.array([1, 0, 1, 0, -1, 1])
    assert np.allclose(pushed["oracle router"], ALPHA * gate[:, None] * vectors, atol=1e-5)


def test_mismatched_domains_take_each_others_vector(states):
    _, pushed = run(states)
    vectors = mixed(DIRECTIONS, SETTING.beta, NAMES)[1 - ROUTED]
    assert np.allclose(pushed["mismatched domains"], ALPHA * GATE[:, None] * vectors, atol=1e-5)
