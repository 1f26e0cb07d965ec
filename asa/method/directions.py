"""Steering directions: where to push the last-token state.

Two directions per domain and one global one, from CAL, as unit vectors:

- `necessity`, the paper's: mean state of requests that need a tool minus mean state of those that do not. It uses
  labels.
- `action`: mean state of requests where the unsteered model called a tool minus those where it did not. No labels; it
  is the direction of what the model is about to do. With fewer than `ENOUGH` of either, the covariance of the state
  with the log-odds of the trigger takes its place.

They need not agree: what a prompt needs and what the model does are different directions. Nothing here applies a
vector.
Formulas: arXiv 2602.04935 v1/v2, section 3; the action direction is this project's.
"""

import numpy as np

NECESSITY, ACTION = "necessity", "action"
DIRECTIONS = (NECESSITY, ACTION)
GLOBAL = "global"
ENOUGH = 8  # rows of either kind that a mean difference needs


def unit(vector: np.ndarray) -> np.ndarray:
    """`vector` `[H]` scaled to length 1.

    Raises:
        ValueError: It is zero or not finite, so it has no direction.
    """
    length = np.linalg.norm(vector)
    if not np.isfinite(length) or length == 0:
        raise ValueError("a steering vector is zero or not finite: the states do not differ along it.")
    return (vector / length).astype(np.float32)


# [directions]
def mean_difference(states: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Unit mean of states `[N, H]` where `chosen` `[N]` minus where not.

    >>> mean_difference(np.array([[2.0, 0], [0, 0]]), np.array([True, False]))
    array([1., 0.], dtype=float32)
    """
    states = states.astype(np.float64)
    return unit(states[chosen].mean(axis=0) - states[~chosen].mean(axis=0))


def action_direction(states: np.ndarray, triggered: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """Unit direction `[H]` of calling a tool, from states `[N, H]`, calls `[N]` and the trigger's log-odds `[N]`."""
    if min(triggered.sum(), (~triggered).sum()) >= ENOUGH:
        return mean_difference(states, triggered)
    states, odds = states.astype(np.float64), log_odds.astype(np.float64)
    return unit((odds - odds.mean()) @ (states - states.mean(axis=0)))


# [/directions]


def fit_directions(
    kind: str,
    states: np.ndarray,
    labels: np.ndarray,
    domains: list[str],
    triggered: np.ndarray,
    log_odds: np.ndarray,
    names: list[str],
) -> dict[str, np.ndarray]:
    """Directions of one kind at one layer.

    Args:
        kind: `necessity` or `action`.
        states: `[N, H]`, CAL.
        labels: `[N]`, 0 or 1.
        domains: Each row's domain.
        triggered: `[N]` bool, whether the unsteered model's next token opens a call.
        log_odds: `[N]`, log-odds of that token.
        names: Domain names.

    Returns:
        Domain (and `global`) -> unit vector `[H]`, fp32.
    """
    place = np.asarray(domains)
    rows = {GLOBAL: np.ones(len(place), bool)} | {name: place == name for name in names}
    if kind == NECESSITY:
        return {name: mean_difference(states[here], np.asarray(labels)[here] == 1) for name, here in rows.items()}
    return {name: action_direction(states[here], triggered[here], log_odds[here]) for name, here in rows.items()}


def mixed(directions: dict[str, np.ndarray], beta: float, names: list[str]) -> np.ndarray:
    """v = unit((1 - beta) * u_d + beta * u_global) for every domain, `[D, H]`."""
    return np.stack([unit((1 - beta) * directions[name] + beta * directions[GLOBAL]) for name in names])


def cosine_matrix(directions: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """Cosines between the domains' unit vectors, `[D, D]`."""
    stacked = np.stack([directions[name] for name in names])
    return stacked @ stacked.T
