"""Checks: what in labelled requests makes a fit poor or its numbers untrue, found before anything is fitted.

Too few of a kind, the same request twice, and words that give the label away, which a probe would learn in place of the
need. Nothing is changed here, and no model is needed.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.stats import fisher_exact
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from asa.data.duplicates import near_duplicate_groups, text_words
from asa.data.requests import Request

FEW = "few"  # a remark, nothing to mend
FEWEST, ENOUGH = 6, 30  # requests of each label and tool: that can be split, and whose numbers mean something
ONE_SIDED = 0.9  # of a word's requests have one label
CHANCE = 0.01  # that any word looks one-sided where none is, at most
TELLING = 0.9  # of the labels are told by the words alone
MOST_WORDS = 10
FOLDS = 5


@dataclass(frozen=True)
class Finding:
    """One thing to mend.

    Attributes:
        kind: `too few`, `few`, `contradiction`, `duplicates`, `one-sided word` or `words tell`.
        says: What is wrong and what to do, a sentence.
        rows: The requests it is about, as `file:row`; empty where it is about all of them.
    """

    kind: str
    says: str
    rows: tuple[str, ...] = ()


def check_requests(requests: list[Request]) -> list[Finding]:
    """What to mend in labelled requests, the gravest first."""
    groups = near_duplicate_groups([request.text for request in requests])
    return [*_too_few(requests), *_duplicates(requests, groups), *_words(requests, groups)]


def _too_few(requests: list[Request]) -> list[Finding]:
    count = Counter((request.domain, request.label) for request in requests)
    found = []
    for domain in dict.fromkeys(request.domain for request in requests):
        for label, needs in ((1, "need its tool"), (0, "need no tool")):
            given, named = count[domain, label], domain or "the requests"
            if given < FEWEST:
                says = f"{named}: {given} requests {needs}, and a fit takes {FEWEST} or more: add some."
                found.append(Finding("too few", says))
            elif given < ENOUGH:
                says = (
                    f"{named}: {given} requests {needs}, so the numbers will be rough: {ENOUGH} or more mean something."
                )
                found.append(Finding(FEW, says))
    return sorted(found, key=lambda finding: finding.kind != "too few")


def _duplicates(requests: list[Request], groups: list[list[int]]) -> list[Finding]:
    """Near-duplicates go into one split together, so they cost requests; with two labels, one of them is wrong."""
    found = []
    for group in (group for group in groups if len(group) > 1):
        alike = [requests[row] for row in group]
        rows = tuple(request.source for request in alike)
        if len({request.label for request in alike}) > 1:
            found.append(
                Finding("contradiction", f"{', '.join(rows)} are alike and labelled both ways: mend one.", rows)
            )
        else:
            found.append(Finding("duplicates", f"{', '.join(rows)} are alike: replace all but one.", rows))
    return sorted(found, key=lambda finding: finding.kind != "contradiction")


def _words(requests: list[Request], groups: list[list[int]]) -> list[Finding]:
    labels = np.array([request.label for request in requests])
    sizes = int(labels.sum()), int((1 - labels).sum())
    if min(sizes) < FOLDS:
        return []
    counter = CountVectorizer(binary=True, analyzer=text_words)
    held = counter.fit_transform([request.text for request in requests])
    with_tool = np.asarray(held[labels == 1].sum(axis=0)).ravel()
    without = np.asarray(held[labels == 0].sum(axis=0)).ravel()
    telling = []
    for word, yes, no in zip(counter.get_feature_names_out(), with_tool.tolist(), without.tolist(), strict=True):
        if max(yes, no) >= ONE_SIDED * (yes + no):
            chance = fisher_exact([[yes, sizes[0] - yes], [no, sizes[1] - no]]).pvalue
            if chance * len(with_tool) < CHANCE:
                telling.append((chance, word, yes, no))
    found = [
        Finding(
            "one-sided word",
            f"{word!r} is in {yes} requests that need a tool and in {no} that need none: use it in both.",
        )
        for _, word, yes, no in sorted(telling)[:MOST_WORDS]
    ]
    if len(groups) < 2 * FOLDS:
        return found
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    of = np.empty(len(requests), int)
    for number, group in enumerate(groups):
        of[group] = number
    parts = list(folds.split(held, labels, of))
    if any(len(set(labels[rest].tolist())) < 2 for rest, _ in parts):  # nearly all of a label are alike
        return found
    told = cross_val_predict(LogisticRegression(max_iter=1000), held, labels, cv=parts) == labels
    if told.mean() >= TELLING:
        share = f"{100 * told.mean():.0f} %"
        says = (
            f"words alone, without order, tell {share} of the labels: a probe may learn them, not the need; vary them."
        )
        found.insert(0, Finding("words tell", says))
    return found
