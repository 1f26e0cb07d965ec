"""Probes: what the last-token state says about the need for a tool, layer by layer.

A linear probe per layer shows where the need is readable, next to two controls: shuffled labels (what overfitting alone
reaches) and prompt length alone. At a chosen layer, the readers are fitted: a scaler, a router (which domain) and one
probe per domain (is a tool needed). Reading is not steering: nothing here touches the model, and a layer that reads
well need not push well.

The readers are fitted on CAL and TRAIN together, and on the labelled requests that no split took: vectors use CAL too,
but no choice is made on any of them, and more rows help the probes (the original's overfitted: 1.00 on TRAIN, .72-.77
on VALID). Formulas: arXiv 2602.04935 v1/v2, section 3.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from asa.evaluation.metrics import auc_of
from asa.support.files import UserError

PLATEAU = 0.005  # AUC below the best that still counts as the plateau
CONSTANT = 1e-3  # spread over prompts, relative to the state's size, below which a layer sees no prompt
PROBE_C = (1e-3, 1e-2, 1e-1)  # inverse regularisation strengths tried on VALID
PROBE_OWN = (0.0, 0.5, 1.0, 4.0)  # how freely a domain's probe may differ from the common one


class ReadError(UserError):
    """Hidden states cannot be read; the message says what was found and what to do."""


@dataclass(frozen=True)
class LayerReading:
    """What one layer's probe reads on VALID, as areas under the ROC curve.

    Attributes:
        layer: Index of the block.
        auc: Of the probe; NaN for a constant layer.
        shuffled: Of the same probe fitted to shuffled labels.
        constant: The state hardly differs between prompts, so there is nothing to read.
    """

    layer: int
    auc: float
    shuffled: float
    constant: bool


def is_constant(states: np.ndarray) -> bool:
    """Whether states `[N, H]` of different prompts are one vector up to rounding."""
    size = np.sqrt(np.mean(np.square(states, dtype=np.float64)))
    return bool(states.std(axis=0, dtype=np.float64).max() <= CONSTANT * size)


def _auc(fit, fit_labels, valid, valid_labels) -> float:
    scaler = StandardScaler().fit(fit)
    probe = LogisticRegression(C=1e-2, max_iter=1000).fit(scaler.transform(fit), fit_labels)
    return _read_auc(valid_labels, probe.decision_function(scaler.transform(valid)))


def _read_auc(labels, scores) -> float:
    area = auc_of(labels, scores)
    if area is None:
        raise ReadError("VALID has requests of one label only, so there is no AUC to choose by: add some of the other.")
    return area


def sweep_layers(fit, fit_labels, valid, valid_labels, seed: int) -> list[LayerReading]:
    """Fit a probe per layer and score it on VALID.

    Args:
        fit: States `[N, layers, H]`.
        fit_labels: `[N]`, 0 or 1.
        valid: States `[M, layers, H]`.
        valid_labels: `[M]`.
        seed: Of the label shuffle.

    Raises:
        ReadError: Every layer is constant, a state is not finite, or `valid_labels` are all alike.
    """
    finite = np.isfinite(fit).all(axis=(0, 2)) & np.isfinite(valid).all(axis=(0, 2))
    if not finite.all():
        raise ReadError(
            f"hidden states hold NaN or infinity from layer {int(np.argmin(finite))} on: load the model in another "
            "dtype (fp32, or bf16 where the GPU has it)."
        )
    shuffled = np.random.default_rng(seed).permutation(fit_labels)
    readings = []
    for layer in range(fit.shape[1]):
        if is_constant(fit[:, layer]):
            readings.append(LayerReading(layer, float("nan"), float("nan"), True))
            continue
        real = _auc(fit[:, layer], fit_labels, valid[:, layer], valid_labels)
        control = _auc(fit[:, layer], shuffled, valid[:, layer], valid_labels)
        readings.append(LayerReading(layer, real, control, False))
    if all(reading.constant for reading in readings):
        raise ReadError("every layer's last-token state is the same for all prompts: check the prompt and the data.")
    return readings


def length_control(fit_lengths, fit_labels, valid_lengths, valid_labels) -> float:
    """AUC on VALID of a probe that sees only the prompt's length in tokens `[N]`."""
    columns = [np.asarray(lengths, float)[:, None] for lengths in (fit_lengths, valid_lengths)]
    return _auc(columns[0], fit_labels, columns[1], valid_labels)


def plateau_layer(readings: list[LayerReading]) -> int:
    """The paper's L*: the deepest layer whose AUC is within `PLATEAU` of the best.

    >>> plateau_layer([LayerReading(layer, auc, 0.5, False) for layer, auc in enumerate((0.9, 0.899, 0.8))])
    1
    """
    best = max(reading.auc for reading in readings if not reading.constant)
    return max(reading.layer for reading in readings if not reading.constant and reading.auc >= best - PLATEAU)


@dataclass
class Readers:
    """Scaler, router and probes of one layer, as plain scikit-learn objects.

    Attributes:
        domains: Names, in the order of the router's classes 0..D-1.
        scaler: z = (h - mean) / std.
        router: z -> domain index.
        probes: Domain -> probe of z.
        mean_norm: Mean length of h over the fitted rows; a dose is alpha over this.
    """

    domains: list[str]
    scaler: StandardScaler
    router: LogisticRegression
    probes: dict[str, LogisticRegression]
    mean_norm: float

    def route(self, states: np.ndarray) -> np.ndarray:
        """Domain index `[N]` for states `[N, H]`."""
        return self.router.predict(self.scaler.transform(states))

    def p_tool(self, states: np.ndarray, routed: np.ndarray | None = None) -> np.ndarray:
        """Probability `[N]` that a tool is needed, by the probe of the domain `routed` `[N]`; None: the router's."""
        z = self.scaler.transform(states)
        routed = self.router.predict(z) if routed is None else routed
        each = np.stack([self.probes[domain].predict_proba(z)[:, 1] for domain in self.domains], axis=1)
        return each[np.arange(len(z)), routed]


def fit_readers(states, labels, domains: list[str], names: list[str], strength: float, own: float) -> Readers:
    """Fit scaler, router and probes at one layer.

    A domain's probe is a common weight vector plus its own deviation, both regularised: one logistic regression on
    `[z, own * z in the domain's block]`. With `own` = 0 all domains share one probe; with a large `own` they are
    independent.

    Args:
        states: `[N, H]`.
        labels: `[N]`, 0 or 1, both present in every domain.
        domains: Each row's domain.
        names: Domain names in order.
        strength: C of scikit-learn, inverse regularisation.
        own: Freedom of a domain's deviation.
    """
    scaler = StandardScaler().fit(states)
    z = scaler.transform(states)
    index = np.array([names.index(domain) for domain in domains])
    router = LogisticRegression(C=1e-2, max_iter=1000)
    if len(names) == 1:  # one class is not a regression; a constant router routes everything to it
        router.classes_, router.coef_, router.intercept_ = np.array([0, 1]), np.zeros((1, z.shape[1])), np.array([-1.0])
    else:
        router.fit(z, index)
    if own:
        blocks = np.zeros((len(z), len(names), z.shape[1]), z.dtype)
        blocks[np.arange(len(z)), index] = own * z
        common = LogisticRegression(C=strength, max_iter=1000).fit(np.hstack([z, blocks.reshape(len(z), -1)]), labels)
    else:
        common = LogisticRegression(C=strength, max_iter=1000).fit(z, labels)
    weights = common.coef_.reshape(-1, z.shape[1])
    probes = {}
    for number, name in enumerate(names):
        probe = LogisticRegression(C=strength)
        deviation = own * weights[1 + number] if own else 0.0
        probe.classes_, probe.intercept_ = np.array([0, 1]), common.intercept_.copy()
        probe.coef_, probe.n_features_in_ = (weights[0] + deviation)[None], z.shape[1]
        probes[name] = probe
    mean_norm = float(np.linalg.norm(states.astype(np.float64), axis=1).mean())
    return Readers(names, scaler, router, probes, mean_norm)


def choose_probe(fit, fit_labels, fit_domains, valid, valid_labels, names) -> tuple[float, float]:
    """The strength and freedom with the best AUC on VALID at one layer's states `[N, H]`; ties to the stronger.

    Raises:
        ReadError: `valid_labels` are all alike.
    """
    best = (-1.0, PROBE_C[0], PROBE_OWN[0])
    for strength in PROBE_C:
        for own in PROBE_OWN:
            readers = fit_readers(fit, fit_labels, fit_domains, names, strength, own)
            auc = _read_auc(valid_labels, readers.p_tool(valid))
            if auc > best[0]:
                best = (auc, strength, own)
    return best[1], best[2]
