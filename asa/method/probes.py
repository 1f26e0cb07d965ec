"""Probes: the readers of one layer, a scaler, a router (which domain) and one probe per domain (is a tool needed).

They are fitted on CAL and TRAIN together, and on the labelled requests that no split took: vectors use CAL too, but no
choice is made on any of them, and more rows help the probes (the original's overfitted: 1.00 on TRAIN, .72-.77 on
VALID). Nothing here touches the model. Formulas: arXiv 2602.04935 v1/v2, section 3.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from asa.method.layers import read_auc
from asa.support.threads import one_thread

PROBE_C = (1e-3, 1e-2, 1e-1)  # inverse regularisation strengths tried on VALID
PROBE_OWN = (0.0, 0.5, 1.0, 4.0)  # how freely a domain's probe may differ from the common one
READ_BY = "every domain's probe, weighed by the router"  # in the checkpoints' keys: change it where `p_tool` changes


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
        """Probability `[N]` that a tool is needed, for states `[N, H]`.

        Every domain's probe has a say, as large as the router finds the domain likely: sum of P(d | z) p_d(z). The
        paper asks the likeliest domain's probe alone, which a router in doubt leaves to chance; `routed` `[N]` names
        the one to ask so.
        """
        z = self.scaler.transform(states)
        each = np.stack([self.probes[domain].predict_proba(z)[:, 1] for domain in self.domains], axis=1)
        if routed is not None:
            return each[np.arange(len(z)), routed]
        shares = self.router.predict_proba(z)[:, : len(self.domains)]  # a router of one domain knows a second class
        return (shares * each).sum(axis=1) / shares.sum(axis=1)


@one_thread()
def fit_readers(
    states: np.ndarray, labels: np.ndarray, domains: list[str], names: list[str], strength: float, own: float
) -> Readers:
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


def choose_probe(
    fit: np.ndarray,
    fit_labels: np.ndarray,
    fit_domains: list[str],
    valid: np.ndarray,
    valid_labels: np.ndarray,
    names: list[str],
) -> tuple[float, float]:
    """The strength and freedom with the best AUC on VALID at one layer's states `[N, H]`; ties to the stronger.

    Raises:
        ReadError: `valid_labels` are all alike.
    """
    best = (-1.0, PROBE_C[0], PROBE_OWN[0])
    for strength in PROBE_C:
        for own in PROBE_OWN:
            readers = fit_readers(fit, fit_labels, fit_domains, names, strength, own)
            auc = read_auc(valid_labels, readers.p_tool(valid))
            if auc > best[0]:
                best = (auc, strength, own)
    return best[1], best[2]
