"""Splits: disjoint, balanced, and near-duplicates kept on one side, whatever their script.

A split holds as many requests with and without need of a tool in every domain. No row is made up.
"""

from dataclasses import dataclass

import numpy as np

from asa.data.duplicates import apart_from, near_duplicate_groups
from asa.data.requests import Request, RequestsError
from asa.support.files import key_of


@dataclass(frozen=True)
class Shares:
    """How many requests each split takes.

    Attributes:
        units: Split -> shares per domain and label.
        largest: Most requests in one share.
        spare: Whether what no split takes helps to fit the readers.
    """

    units: dict[str, int]
    largest: int
    spare: bool = True


FULL = Shares({"cal": 1, "train": 1, "valid": 1, "test": 2}, 40)  # of four domains, 320/320/320/640 requests
QUICK = Shares({"cal": 1, "train": 1, "valid": 1, "test": 1}, 8, spare=False)  # of four domains, 64 each


@dataclass(frozen=True)
class Split:
    """N requests as columns, one row per request.

    Attributes:
        requests: The requests.
        prompts: Their prompts as token ids.
    """

    requests: list[Request]
    prompts: list[list[int]]

    def __len__(self) -> int:
        """How many requests."""
        return len(self.requests)

    @property
    def labels(self) -> np.ndarray:
        """`[N]`, 1 where a request needs a tool, else 0."""
        return np.array([request.label for request in self.requests], int)

    @property
    def domains(self) -> list[str]:
        """Each request's domain."""
        return [request.domain for request in self.requests]

    def cells(self, names: list[str]) -> list[np.ndarray]:
        """The rows of each domain of `names` and, in it, of label 0 and 1; `[2 D]`."""
        place, labels = np.array(self.domains), self.labels
        return [np.flatnonzero((place == name) & (labels == label)) for name in names for label in (0, 1)]

    @property
    def lengths(self) -> list[int]:
        """Each prompt's tokens."""
        return [len(ids) for ids in self.prompts]


@dataclass(frozen=True)
class ReadSplit(Split):
    """A split and what the unsteered model holds of it.

    Attributes:
        states: `[N, layers, H]` fp32, the residual stream behind every block at the last prompt token.
        called: `[N]` bool, whether the unsteered model's next token opens a call.
        log_odds: `[N]` fp32, log-odds of that token.
    """

    states: np.ndarray
    called: np.ndarray
    log_odds: np.ndarray

    def chosen(self, rows: np.ndarray) -> "ReadSplit":
        """The requests of `rows`, in their order."""
        columns = (self.states[rows], self.called[rows], self.log_odds[rows])
        return ReadSplit([self.requests[row] for row in rows], [self.prompts[row] for row in rows], *columns)

    def __add__(self, other: "ReadSplit") -> "ReadSplit":
        """Both, one after the other."""
        columns = [np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("states", "called", "log_odds")]
        return ReadSplit(self.requests + other.requests, self.prompts + other.prompts, *columns)


def split_requests(requests: list[Request], seed: int, shares: Shares = FULL) -> dict[str, list[Request]]:
    """Disjoint splits `cal`, `train`, `valid`, `test`, balanced over domains and labels.

    A share is what the smallest cell (a domain and a label) allows, `shares.largest` at most; rows beyond are left out.

    Args:
        requests: Labelled requests; every domain must have both labels.
        seed: Of the shuffle.
        shares: How many each split takes.

    Raises:
        RequestsError: A domain lacks a label, or has fewer than 5 of one.
    """
    if not requests:
        raise RequestsError("no requests are left to split: give more of them.")
    cells: dict[tuple[str, int], int] = {}
    for request in requests:
        cells[request.domain, request.label] = cells.get((request.domain, request.label), 0) + 1
    for domain in {domain for domain, _ in cells}:
        for label in (0, 1):
            if cells.get((domain, label), 0) < 5:
                raise RequestsError(
                    f"domain {domain!r} has {cells.get((domain, label), 0)} requests with label {label} to split: "
                    "give 5 or more of both, 6 where its tool brings no examples."
                )
    unit = min(shares.largest, *(count // sum(shares.units.values()) for count in cells.values()))
    room = {(split, cell): unit * share for split, share in shares.units.items() for cell in cells}
    groups = near_duplicate_groups([request.text for request in requests])
    order = np.random.default_rng(seed).permutation(len(groups))
    splits: dict[str, list[Request]] = {split: [] for split in shares.units}
    for group in sorted((groups[i] for i in order), key=len, reverse=True):  # large groups while all splits have room
        members = [requests[i] for i in group]
        needs = [(member.domain, member.label) for member in members]
        fitting = [s for s in splits if all(room[s, cell] >= needs.count(cell) for cell in needs)]
        if fitting:
            split = max(fitting, key=lambda s: min(room[s, cell] / (unit * shares.units[s]) for cell in needs))
            splits[split] += members
            for cell in needs:
                room[split, cell] -= 1
    short = [f"{split}, {domain}, label {label}: {left}" for (split, (domain, label)), left in room.items() if left]
    if short:
        raise RequestsError(
            f"near-duplicates leave splits unfilled (missing: {'; '.join(short)}): add different requests."
        )
    return splits


def spare_requests(requests: list[Request], splits: dict[str, list[Request]]) -> list[Request]:
    """Those of `requests` that no split took and that are near-duplicates of none that a split took, in their order.

    They may help to fit, and can spoil no test, however the splits' own requests are dealt again.
    """
    taken = dict.fromkeys(request for rows in splits.values() for request in rows)
    pool = [request for request in dict.fromkeys(requests) if request not in taken]
    return apart_from([request.text for request in taken], pool)


def requests_key(splits: dict[str, list[Request]]) -> str:
    """Hash of the splits' texts, labels and domains, in order."""
    return key_of({name: [(r.text, r.label, r.domain) for r in rows] for name, rows in splits.items()})
