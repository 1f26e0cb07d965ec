"""Candidates: other gates beside ours, at one layer, on VALID and by cross-validation.

Ours is one logistic regression whose weights a domain may bend (`probes`), all domains weighed by the router. Here
stand what else could say whether a request needs a tool: the likeliest domain's probe alone, other regularisation, one
probe for all domains, states of unit length, shrinkage LDA, kernels, two layers, calibration. Each gives a score whose
sign is the decision. TEST never comes here, and nothing is steered.
"""

from collections.abc import Callable

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC

from asa.data.scores import auc_of, confusion
from asa.evaluation.metrics import difference, mean_and_std
from asa.method.probes import fit_readers
from asa.support.threads import one_thread

FOLDS = 5
OURS_GATE = "ours: logistic, bent by domain, weighed by the router"
ROUTED = "the likeliest domain's probe alone"
WITH_SPARE = "ours, the spare requests fitted too"
ROUTED_WITH_SPARE = "the likeliest domain's probe, the spare requests fitted too"
Score = Callable[[np.ndarray], np.ndarray]  # states [N, H] -> [N], above 0 where a tool is needed


def _plain(*steps: BaseEstimator) -> Callable[..., Score]:
    """A candidate that knows no domains: scikit-learn's steps behind the scaler."""
    return lambda states, labels, domains: make_pipeline(StandardScaler(), *steps).fit(states, labels).decision_function


def _ours(names: list[str], strength: float, own: float, routed: bool = False) -> Callable[..., Score]:
    """As the adapter reads the need; `routed`: by the likeliest domain's probe alone, as the paper does."""

    def fit(states: np.ndarray, labels: np.ndarray, domains: np.ndarray) -> Score:
        readers = fit_readers(states, labels, list(domains), names, strength, own)
        return lambda asked: readers.p_tool(asked, readers.route(asked) if routed else None) - 0.5

    return fit


def _calibrated(strength: float) -> Callable[..., Score]:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))

    def fit(states: np.ndarray, labels: np.ndarray, domains: np.ndarray) -> Score:
        folds = min(FOLDS, int(np.bincount(labels).min()))
        fitted = CalibratedClassifierCV(probe, method="sigmoid", cv=folds).fit(states, labels)
        return lambda asked: fitted.predict_proba(asked)[:, 1] - 0.5

    return fit


def _kernel(seed: int) -> Callable[..., Score]:
    """16 axes, then 128 landmarks of an RBF kernel, or as many as the rows allow."""

    def fit(states: np.ndarray, labels: np.ndarray, domains: np.ndarray) -> Score:
        axes = PCA(min(16, *states.shape), random_state=seed)
        landmarks = Nystroem(gamma=1.0, n_components=min(128, len(states)), random_state=seed)
        logistic = LogisticRegression(C=10.0, max_iter=1000)
        return _plain(Normalizer(), axes, Normalizer(), landmarks, logistic)(states, labels, domains)

    return fit


def _by_domain_and_label(states: np.ndarray, labels: np.ndarray, domains: np.ndarray) -> Score:
    """Shrinkage LDA with a class for every domain and label; the odds are those of the labels' classes together."""
    classes = np.array([f"{domain} {label}" for domain, label in zip(domains, labels, strict=True)])
    lda = make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
    lda.fit(states, classes)
    needed = np.array([name.endswith(" 1") for name in lda.classes_])
    return lambda asked: lda.predict_proba(asked)[:, needed].sum(axis=1) - 0.5


def candidates(names: list[str], strength: float, own: float, seed: int) -> dict[str, Callable[..., Score]]:
    """Name -> fit(states `[N, H]`, labels `[N]`, domains `[N]`) -> `Score`."""
    lda = {"solver": "lsqr", "shrinkage": "auto"}
    logistic = LogisticRegression(C=strength, max_iter=1000)
    return {
        OURS_GATE: _ours(names, strength, own),
        ROUTED: _ours(names, strength, own, routed=True),
        "ours, regularised ten times more": _ours(names, strength / 10, own),
        "ours, regularised ten times less": _ours(names, strength * 10, own),
        "logistic, one for all domains": _plain(logistic),
        "the same, calibrated (Platt)": _calibrated(strength),
        "logistic on states of unit length": _plain(Normalizer(), LogisticRegression(C=100.0, max_iter=1000)),
        "shrinkage LDA": _plain(LinearDiscriminantAnalysis(**lda)),
        "shrinkage LDA, a class for domain and label": _by_domain_and_label,
        "RBF SVM on states of unit length": _plain(Normalizer(), SVC(C=4.0, gamma=1.0)),
        "PCA to 16, Nystroem RBF, logistic": _kernel(seed),
    }


def _scores(score: Score, states: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    said = score(states)
    found = confusion(said >= 0, labels)
    return {"auc": auc_of(labels, said), "f1": found["f1"], "fpr": found["fpr"]}


@one_thread()
def compare_gates(
    states: np.ndarray, labels: np.ndarray, domains: np.ndarray, fitted: np.ndarray, layer: int, other: int,
    names: list[str], strength: float, own: float, seed: int, spare: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> list[dict]:  # fmt: skip
    """Every candidate at `layer`; ours on two layers side by side, and two with more requests.

    Args:
        states: `[N, layers, H]`, CAL, TRAIN and VALID.
        labels: `[N]`.
        domains: `[N]`.
        fitted: `[N]` bool, the rows of CAL and TRAIN; the others are VALID.
        layer: The steered layer.
        other: The second one of the pair.
        names: Domain names.
        strength: C of our probes.
        own: Freedom of our probes.
        seed: Of the folds and the kernel's landmarks.
        spare: States `[M, layers, H]`, labels and domains of requests that are fitted only, and only by the last two.

    Returns:
        A candidate each: `gate`, `valid` (`auc`, `f1`, `fpr`; fitted on CAL and TRAIN), `folds` (the same, with mean
        and standard deviation over `FOLDS` folds of all rows, or as many as the smallest cell of a domain and a label
        has rows) and `ahead`, F1 less that of ours on the same folds.
    """
    here = states[:, layer]
    tried = [(name, fit, here) for name, fit in candidates(names, strength, own, seed).items()]
    tried.append((f"ours on layers {layer} and {other}", tried[0][1], np.hstack([here, states[:, other]])))
    more = (spare[0][:, layer], *spare[1:])

    def with_spare(fit: Callable[..., Score]) -> Callable[..., Score]:
        return lambda *given: fit(*[np.concatenate(pair) for pair in zip(given, more, strict=True)])

    tried.append((ROUTED_WITH_SPARE, with_spare(_ours(names, strength, own, routed=True)), here))
    tried.append((WITH_SPARE, with_spare(tried[0][1]), here))
    cells = np.array([f"{domain} {label}" for domain, label in zip(domains, labels, strict=True)])
    smallest = int(np.unique(cells, return_counts=True)[1].min())
    splitter = StratifiedKFold(min(FOLDS, smallest), shuffle=True, random_state=seed)
    folds = list(splitter.split(here, cells))
    rows, ours = [], None
    for name, fit, seen in tried:
        valid = _scores(fit(seen[fitted], labels[fitted], domains[fitted]), seen[~fitted], labels[~fitted])
        each = [_scores(fit(seen[a], labels[a], domains[a]), seen[b], labels[b]) for a, b in folds]
        columns = {m: [scores[m] for scores in each] for m in ("auc", "f1", "fpr")}
        ours = columns["f1"] if ours is None else ours
        columns["ahead"] = [difference(*pair) for pair in zip(columns["f1"], ours, strict=True)]
        spread = {measure: mean_and_std(values) for measure, values in columns.items()}
        rows.append({"gate": name, "valid": valid, "ahead": spread.pop("ahead"), "folds": spread})
    return rows
