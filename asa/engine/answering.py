"""Answering: greedy answers of the model, unsteered and steered.

Both come from the same prefilled batches, so that a push of zero changes nothing. Of several processes each works on
its own batches, and all get the whole result. What is said here is judged elsewhere.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from asa.adapter import ASAAdapter, Decision
from asa.engine.batch import Batch
from asa.engine.decoding import Decoder
from asa.engine.states import Reading
from asa.models.matching import CallMatcher
from asa.support.processes import gathered, progress

Calls = Callable[[int, list[int]], CallMatcher | None]  # a row and its tokens so far; see `Decoder`
Push = tuple[int, np.ndarray]  # (layer, `[N, H]`), added to that block's output at the last prompt token


def answer_all(
    batches: list[Batch],
    limit: int,
    closed: Callable[[list[int]], bool],
    what: str,
) -> list[list[int]]:
    """Unsteered greedy answers, as token ids, rows in the order of the prompts."""
    rows = sum(len(batch.rows) for batch in batches)
    return in_order(_answers({what: batches}, {}, rows, limit, closed, what)[what])


def in_order(answers: dict[int, list[int]]) -> list[list[int]]:
    """The answers by row."""
    return [answers[row] for row in sorted(answers)]


def chosen_parts(batches: Iterable[Batch], chosen: np.ndarray) -> Iterator[Batch]:
    """The rows of every batch for which `chosen` `[N]` (bool) holds, as batches of their own; none is empty."""
    for batch in batches:
        places = [place for place, row in enumerate(batch.rows) if chosen[row]]
        if places:
            yield batch.select(places)


def answer_chosen(
    batches: list[Batch],
    chosen: np.ndarray,
    limit: int,
    closed: Callable[[list[int]], bool],
    what: str,
    push: Push | None = None,
    opening: Sequence[int] = (),
    avoid: int | None = None,
    calls: Calls | None = None,
) -> dict[int, list[int]]:
    """Greedy answers of some rows only, under an intervention.

    Args:
        batches: The requests' batches.
        chosen: `[N]` bool, the rows to answer.
        limit: Maximum new tokens per row.
        closed: As in `Batch.decode`.
        what: Name of the progress bar.
        push: Added, if given.
        opening: As in `Batch.decode`.
        avoid: As in `Batch.decode`.
        calls: Gives the matcher of a row's call, once one is opened; None: calls are written freely.

    Returns:
        Row -> answer.
    """
    runs, pushes = {what: chosen_parts(batches, chosen)}, {} if push is None else {what: push}
    rows = sum(bool(chosen[row]) for batch in batches for row in batch.rows)
    return _answers(runs, pushes, rows, limit, closed, what, opening, avoid, calls)[what]


def answer_steered(
    batches: list[Batch],
    reading: Reading,
    adapters: Mapping[str, ASAAdapter],
    unsteered: list[list[int]] | None,
    limit: int,
    closed: Callable[[list[int]], bool],
    what: str,
) -> dict[str, tuple[list[list[int]], list[Decision]]]:
    """Greedy answers steered by each of several adapters, and the decisions behind them.

    Rows that are not pushed keep their unsteered answer: those with gate 0 and, where an adapter looks ahead, those
    where the model does what the gate wants.

    Args:
        batches: The requests' batches.
        reading: What the unsteered model holds.
        adapters: Run -> what decides and pushes.
        unsteered: `[N]` unsteered answers; None: those of the rows that are not pushed are generated.
        limit: Maximum new tokens per row.
        closed: As in `Batch.decode`.
        what: Name of the progress bar.

    Returns:
        Run -> (answers `[N]`, decisions `[N]`).
    """
    pushes: dict[str, Push] = {}
    decisions: dict[str, list[Decision]] = {}
    for run, adapter in adapters.items():
        opens = torch.from_numpy(reading.called) if adapter.look_ahead else None
        delta, decisions[run] = adapter.push(torch.from_numpy(reading.states[:, adapter.layer]), opens)
        pushes[run] = (adapter.layer, delta.numpy())
    moved: dict[str, np.ndarray] = {run: np.any(push != 0, axis=1) for run, (_, push) in pushes.items()}
    left = ~np.all(list(moved.values()), axis=0)  # rows that some adapter leaves as they are
    if unsteered is not None:
        plain = dict(enumerate(unsteered))
    else:
        plain = answer_chosen(batches, left, limit, closed, f"{what}, not pushed") if left.any() else {}
    parts = {run: chosen_parts(batches, moved[run]) for run in adapters}
    rows = sum(bool(moved[run][row]) for run in adapters for batch in batches for row in batch.rows)
    steered = _answers(parts, pushes, rows, limit, closed, what)
    return {run: (in_order(plain | steered[run]), decisions[run]) for run in adapters}


def _answers(
    runs: Mapping[str, Iterable[Batch]],
    pushes: Mapping[str, Push],
    rows: int,
    limit: int,
    closed: Callable[[list[int]], bool],
    what: str,
    opening: Sequence[int] = (),
    avoid: int | None = None,
    calls: Calls | None = None,
) -> dict[str, dict[int, list[int]]]:
    """Run -> row -> answer; all runs go through one decoder, `rows` of this process in all."""
    decoder = None

    def begun(name: tuple[str, int], said: list[int]) -> CallMatcher | None:
        return calls(name[1], said) if calls else None

    with progress(total=rows, desc=what, unit="answer") as bar:
        for run, parts in runs.items():
            for part in parts:
                if decoder is None:
                    decoder = Decoder[tuple[str, int]](part.engine, limit, closed, opening, avoid, bar.update, begun)
                push = None
                if run in pushes:
                    layer, delta = pushes[run]
                    push = (layer, torch.from_numpy(delta[part.rows]).to(part.own_mask.device))
                decoder.add(part.begin([(run, row) for row in part.rows]), push)
        said = list(decoder.finish().items()) if decoder is not None else []
    found: dict[str, dict[int, list[int]]] = {run: {} for run in runs}
    for (run, row), answer in gathered(said):
        found[run][row] = answer
    return found
