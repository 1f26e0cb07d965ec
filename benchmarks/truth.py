"""Truth: the same weights in float64, and how far from it rounding may leave us.

Processors add in other orders, so how much rounding may change is never written down: what the plain way loses against
float64 is measured where the comparison is made, and ours may lose a few times as much.
"""

import copy

import torch
from torch.overrides import TorchFunctionMode

TIMES = 5  # in 16 bit the shared-prefix attention rounds its scores, the plain one does not: up to 2.7 times its error


class NothingInFloat32(TorchFunctionMode):
    """Runs in float64 what a model's code asks for in float32 by name: norms, rotary angles, the softmax."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Call `func` with float64 wherever it was given float32."""
        if func is torch.Tensor.float:
            return args[0].double()
        args = [torch.float64 if arg is torch.float32 else arg for arg in args]
        kwargs = {name: torch.float64 if arg is torch.float32 else arg for name, arg in (kwargs or {}).items()}
        return func(*args, **kwargs)


def doubled(model):
    """A copy of `model` with the same weights in float64, to be run inside `NothingInFloat32`."""
    return copy.deepcopy(model).double()


def error(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Distance of vectors `[..., H]` from the true ones, relative to these `[...]`."""
    return (found.double() - true).norm(dim=-1) / true.norm(dim=-1)


def allowed_error(*pairs: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The most that `error` may be, from pairs of what the plain way gives and what is true, vectors `[..., H]` both.

    A few times the plain way's largest error, which is taken to be one eps at least: it may round nothing by luck.
    """
    return TIMES * max(max(error(*pair).max().item(), torch.finfo(pair[0].dtype).eps) for pair in pairs)
