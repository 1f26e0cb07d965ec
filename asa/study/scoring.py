"""Scoring the ladder: every rung's answers against the labels, the baseline and the whole method.

Nothing is generated here, and nothing is put into words.
"""

import numpy as np

from asa.evaluation.ablations import whole
from asa.evaluation.metrics import mcnemar, trigger_metrics
from asa.evaluation.validity import call_validity
from asa.models.answers import AnswerRules
from asa.tools.definitions import Tool

PROBE = "probe decision alone (steers nothing)"


def ladder_row(
    texts: list[str],
    called: np.ndarray,
    baseline: np.ndarray,
    full: np.ndarray,
    labels: np.ndarray,
    tools: dict[str, Tool],
    markers: tuple[str, str],
    damage: dict,
    seed: int,
) -> dict:
    """One rung's scores.

    Args:
        texts: `[N]` answers.
        called: `[N]` bool, whether they hold the trigger.
        baseline: `[N]` bool, the same of the unsteered answers.
        full: `[N]` bool, the same of the whole method's.
        labels: `[N]`.
        tools: Known tools.
        markers: Around a call.
        damage: Of `Spared.damage`.
        seed: For the bootstrap.

    Returns:
        `scores`, `mcnemar` (baseline is run a), `against_full` (the whole method is run a), `validity`, `damage`.
    """
    return {
        "scores": trigger_metrics(called, labels, seed),
        "mcnemar": mcnemar(baseline, called, labels),
        "against_full": mcnemar(full, called, labels),
        "validity": call_validity(texts, tools, markers),
        "damage": damage,
    }


def score_ladder(
    rungs: dict[str, list[list[int]]],
    probe: np.ndarray,
    labels: np.ndarray,
    damage: dict,
    direction: str,
    rules: AnswerRules,
    tools: dict[str, Tool],
    seed: int,
) -> dict:
    """Rung -> scores, tests, validity and damage; the probe alone is the last.

    Args:
        rungs: Rung -> answers `[N]`, token ids.
        probe: `[N]` bool, what the probe alone would call.
        labels: `[N]`.
        damage: Rung -> `Spared.damage`.
        direction: Whose whole method the rungs without a direction are compared with.
        rules: What belongs to answers.
        tools: Known tools.
        seed: For the bootstrap.
    """
    called = {name: rules.called(rung) for name, rung in rungs.items()}
    baseline, asa = called["baseline"], called[whole(called, direction)]
    ladder = {}
    for name, rung in rungs.items():
        texts, full = [rules.text(ids) for ids in rung], called.get(whole(called, name.split(":")[0]), asa)
        ladder[name] = ladder_row(texts, called[name], baseline, full, labels, tools, rules.markers, damage[name], seed)
    ladder[PROBE] = {
        "scores": trigger_metrics(probe, labels, seed),
        "mcnemar": mcnemar(baseline, probe, labels), "against_full": mcnemar(asa, probe, labels),
    }  # fmt: skip
    return ladder
