"""A cascade: several blocks in a row are pushed, at the last prompt token and at every token after it.

The push is a share of each state's own length, along a unit vector per request and block. As with one block, the next
token comes by replay, and answers come from the batched decoder. The gate is the caller's: a request whose vectors are
zero is not pushed. After the StateCascade of arXiv 2602.04935 v3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from asa.engine.answering import chosen_parts
from asa.engine.batch import Batch
from asa.engine.decoding import Decoder, Rows
from asa.engine.forward import PrefixedModel
from asa.method.steering import next_triggers
from asa.models.layout import block_output, decoder_layers, hooked
from asa.support.processes import gathered, progress


@dataclass(frozen=True)
class Cascade:
    """What is pushed.

    Attributes:
        first: The first of the pushed blocks.
        along: `[N, blocks, H]` fp32, the gate times each block's unit vector.
        length: Share of a state's own length.
    """

    first: int
    along: np.ndarray
    length: float

    @property
    def chosen(self) -> np.ndarray:
        """`[N]` bool, the requests that are pushed."""
        return np.any(self.along, axis=(1, 2))


def cascade_triggers(batches: list[Batch], states: np.ndarray, cascade: Cascade, trigger_id: int) -> np.ndarray:
    """Whether the next token opens a call, `[N]` bool, by replay from the first pushed block on.

    Args:
        batches: The requests' batches; with those of the other processes they cover rows 0..N-1.
        states: `[N, layers, H]`, as `Batch.last_token` gave them.
        cascade: What is pushed at the last prompt token.
        trigger_id: First token of the trigger.
    """

    def replayed(batch: Batch) -> torch.Tensor:
        along = torch.from_numpy(cascade.along[batch.rows])
        hidden = torch.from_numpy(states[batch.rows, cascade.first])
        hidden = (hidden + _push(hidden, along[:, 0], cascade.length)).to(batch.own_mask.device)
        with hooked(*_hooks(batch.engine, cascade, along, behind_the_first=True)):
            return batch.replay(cascade.first, hidden)

    return next_triggers(batches, len(states), replayed, trigger_id)


def cascade_answers(
    batches: list[Batch], cascade: Cascade, limit: int, closed: Callable[[list[int]], bool], what: str
) -> dict[int, list[int]]:
    """Row -> greedy answer of the rows that are pushed; `limit`, `closed` and `what` as in `answer_chosen`."""
    decoder, chosen = None, cascade.chosen
    with progress(total=int(chosen.sum()), desc=what, unit="answer") as bar:
        for part in chosen_parts(batches, chosen):
            if decoder is None:
                decoder = _CascadeDecoder(part.engine, limit, closed, cascade, bar.update)
            decoder.add(part.begin(part.rows))
        said = list(decoder.finish().items()) if decoder is not None else []
    return dict(gathered(said))


class _CascadeDecoder(Decoder[int]):
    """Pushes at every step; rows are named by their numbers."""

    def __init__(
        self,
        engine: PrefixedModel,
        limit: int,
        closed: Callable[[list[int]], bool],
        cascade: Cascade,
        ended: Callable[[], object],
    ):
        super().__init__(engine, limit, closed, ended=ended)
        self.cascade = cascade

    def _run(self, rows: Rows[int]) -> torch.Tensor:
        along = torch.from_numpy(self.cascade.along[rows.names])
        with hooked(*_hooks(self.engine, self.cascade, along)):
            return super()._run(rows)


def _hooks(
    engine: PrefixedModel, cascade: Cascade, along: torch.Tensor, behind_the_first: bool = False
) -> list[RemovableHandle]:
    """A hook on every pushed block, or on all but the first, for the rows of `along` `[B, blocks, H]`."""
    blocks = decoder_layers(engine.model)[cascade.first :]
    return [
        blocks[place].register_forward_hook(_pushing(along[:, place], cascade.length))
        for place in range(int(behind_the_first), along.shape[1])
    ]


def _pushing(along: torch.Tensor, length: float) -> Callable[..., Any]:
    def push(_module: torch.nn.Module, _args: tuple, output: Any) -> Any:
        hidden = block_output(output)
        hidden[:, -1] += _push(hidden[:, -1], along, length)
        return output

    return push


def _push(hidden: torch.Tensor, along: torch.Tensor, length: float) -> torch.Tensor:
    """For states `[B, H]` and vectors `[B, H]`."""
    return length * hidden.norm(dim=-1, keepdim=True) * along.to(hidden.device)
