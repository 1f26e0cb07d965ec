"""Processes: one job on several devices, each with its own copy of the model.

`accelerate launch --num_processes N pipeline.py` starts the script N times. Every process prefills, replays and
decodes its share of the batches and tells the others what came out, so that all go on with the same numbers; the
first one alone prints and writes. Batches are formed as one process forms them and dealt out whole, so that their
number does not change a result. Without a launcher there is one process, and nothing here does anything.

What the processes tell each other travels between them only; no file is involved.
"""

import atexit
import os
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed
from accelerate import PartialState
from tqdm.auto import tqdm

from asa.support.files import is_first

Item = TypeVar("Item")


@cache
def this_process() -> PartialState:
    """This process among those of the launcher: its index, their number, its device; the first call makes contact."""
    here = PartialState(cpu=not torch.cuda.is_available())
    if here.num_processes > 1:
        atexit.register(here.destroy_process_group)  # threads that are left talking abort a process that ends
    return here


def dealt(items: list[Item]) -> list[Item]:
    """This process' share of `items`: every N-th."""
    here = this_process()
    return items[here.process_index :: here.num_processes]


def gathered(items: list[Item]) -> list[Item]:
    """The `items` of all processes, in the order of the processes; every process must call it."""
    here = this_process()
    if here.num_processes == 1:
        return items
    lists: list[list[Item]] = [[] for _ in range(here.num_processes)]
    torch.distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def from_first(value: Any) -> Any:
    """The first process' `value`, in every process; every process must call it."""
    if this_process().num_processes == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def progress(items: Iterable[Item] | None = None, **options: Any) -> tqdm:
    """A progress bar, in the first process only, and none where its name (`desc`) is empty; arguments as for `tqdm`."""
    return tqdm(items, disable=not (is_first() and options.get("desc") != ""), **options)


def quiet_unless_first() -> None:
    """Let only the first process print; what the others have to say about errors still comes through."""
    if not is_first():
        sys.stdout = open(os.devnull, "w")
