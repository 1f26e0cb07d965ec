"""What work costs: floating-point operations, bytes and launches, and the memory held meanwhile.

`OpCounter` watches every tensor operation of a run: operations by torch's own formulas, the bytes of all operands and
results (eager mode reads and writes each of them), kernel launches, and the most bytes held at once. It works on
torch's meta device too, where tensors have shapes but no data, so a model of any size is counted in no memory. Nothing
is timed here, and caches near the processor are not modelled.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

WITHOUT_KERNEL = ("_unsafe_view", "detach_", "lift_fresh", "device")
GATHERS = ("embedding", "index")  # they read what they return, not the whole table


@dataclass(frozen=True)
class Counts:
    """What a piece of work costs.

    Attributes:
        flop: Floating-point operations of matrix products and convolutions.
        moved: Bytes read and written.
        launches: Kernels.
    """

    flop: float = 0
    moved: float = 0
    launches: float = 0

    def __add__(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(self.flop + other.flop, self.moved + other.moved, self.launches + other.launches)

    def __mul__(self, times: float) -> "Counts":
        """The same, so many times."""
        return Counts(self.flop * times, self.moved * times, self.launches * times)

    def __sub__(self, other: "Counts") -> "Counts":
        """What the other does not cost."""
        return self + other * -1


@cache
def _is_composite(func) -> bool:
    return func.namespace == "aten" and func._can_decompose()


@cache
def _has_kernel(func) -> bool:
    """Whether an operation launches a kernel; views do not."""
    views = any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns)
    return not views and func._overloadpacket.__name__ not in WITHOUT_KERNEL


def _bytes(tensors: list) -> int:
    """Bytes behind tensors; an expanded one has no more than its storage."""
    return sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors if isinstance(t, torch.Tensor))


class OpCounter(TorchDispatchMode):
    """Counts the operations of what it is given to run.

    Attributes:
        live: Bytes of tensors held now: those given to `hold`, and all results that are still alive.
    """

    def __init__(self):
        super().__init__()
        self.live = self._peak = 0
        self._counts = Counts()
        self._held: set[int] = set()

    def hold(self, tensors) -> None:
        """Take tensors that are there already into account; each storage counts once."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._held:
                self._held.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())
        self._peak = max(self._peak, self.live)

    def _let_go(self, storage: int, size: int) -> None:
        self._held.discard(storage)
        self.live -= size

    def count(self, run: Callable[[], object]) -> tuple[Counts, int]:
        """Run something: its counts, and the most bytes held meanwhile."""
        self._counts, self._peak = Counts(), self.live
        with self:
            run()
        return self._counts, self._peak

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operation and count it; one that is made of others is counted by those."""
        kwargs = kwargs or {}
        moves = func is torch.ops.aten._to_copy.default and kwargs.get("device", args[0].device) != args[0].device
        if moves and args[0].is_meta:
            return torch.zeros(
                args[0].shape, dtype=args[0].dtype
            )  # values are asked for: any will do, only shapes cost
        if _is_composite(func):
            with self:
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        if not moves and _has_kernel(func):
            written = tree_leaves(out)
            gathers = func._overloadpacket.__name__ in GATHERS
            moved = _bytes(written) + _bytes(written if gathers else tree_leaves((args, kwargs)))
            formula = flop_registry.get(func._overloadpacket)
            flop = formula(*args, **kwargs, out_val=out) if formula else 0
            self._counts += Counts(flop, moved, 1)
            self.hold(tensor for tensor in written if isinstance(tensor, torch.Tensor))
        return out
