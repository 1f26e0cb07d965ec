"""Learning: what few labels give, on the made-up model of which the right answer is known."""

from types import SimpleNamespace

import numpy as np
import pytest
from test_robustness import LAYER, NAMES, TRIGGER, make_pool

from asa.method.directions import ACTION
from asa.method.tuning import Setting
from asa.study.learning import DRAWS, SIZES, learning_curve
from asa.study.reading_sections import learning_section
from asa.study.trials import labelled_split, take_part

pytestmark = pytest.mark.slow

SETTING = Setting(ACTION, LAYER, 2.0, 0.0, 0.5)


@pytest.fixture(scope="module")
def curve():
    return learned(0)


def learned(seed: int, noise: float = 0.0) -> list[dict]:
    """The curve on the pool's CAL and TRAIN, with this share of its labels wrong."""
    pool, rows = make_pool()
    labels = np.where(np.random.default_rng(1).random(len(pool.labels)) < noise, 1 - pool.labels, pool.labels)
    fit = labelled_split(pool, np.concatenate([rows["cal"], rows["train"]]), labels)
    fit = type(fit)(fit.requests, [[]] * len(fit), fit.states, fit.called, fit.log_odds)
    test = take_part(pool, rows["test"])
    prefilled = SimpleNamespace(reading=test.reading, batches=test.batches)
    return learning_curve(fit, pool.labels[test.rows], prefilled, SETTING, NAMES, (0.1, 4.0), TRIGGER, seed)


def test_a_need_that_is_read_without_error_is_learned_from_four(curve):
    """Every draw reaches what the model can; sizes that the splits cannot fill are left out."""
    assert [at["size"] for at in curve] == [size for size in SIZES if size <= 16] and len(curve[0]["draws"]) == DRAWS
    for at in curve:
        for run in ("asa", "probe"):
            assert at["summary"][run]["f1"]["mean"] == pytest.approx(1.0)
            assert at["summary"][run]["fpr"]["mean"] == 0.0


def test_draws_differ_and_a_seed_gives_them_again():
    """Where labels are wrong, what is drawn matters."""
    noisy, again, other = learned(3, noise=0.25), learned(3, noise=0.25), learned(4, noise=0.25)
    assert noisy == again != other
    assert all(0 < at["summary"]["probe"]["f1"]["std"] < 0.3 for at in noisy)
    assert 0.5 < noisy[-1]["summary"]["asa"]["f1"]["mean"] < 1


def test_the_report_has_a_row_a_size(curve):
    section = learning_section(curve)
    assert "learning_curve.png" in section[2] and f"over {DRAWS} draws" in section[1]
    assert [row.split("|")[1].strip() for row in section[-1].splitlines()[2:]] == [str(at["size"]) for at in curve]
    assert learning_section([]) == learning_section(None) == []
