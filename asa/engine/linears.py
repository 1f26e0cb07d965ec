"""Linear layers by oneDNN, on processors on which PyTorch's usual ones are slow.

PyTorch multiplies fp32 matrices with MKL, which leaves the widest registers unused on processors that Intel did not
make. oneDNN, which PyTorch has as well, uses them (`benchmarks/linears.md`). The products are the same up to rounding;
everywhere else they are PyTorch's.
"""

import contextlib
import functools
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

FEW_STATES = 8  # below which PyTorch's linear layers are no slower
STEP = 16  # of the numbers of states that oneDNN sees; eightfold where there are many


def one_dnn_is_faster() -> bool:
    """Whether PyTorch has oneDNN, switched on, and usually takes MKL on a processor that this slows."""
    return bool(torch.backends.mkldnn.enabled) and _mkl_is_slow()


@functools.cache
def _mkl_is_slow() -> bool:
    """Whether this is a processor with AVX-512 that AMD made, and PyTorch has both libraries."""
    libraries = (torch.backends.mkl, torch.backends.mkldnn)
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not all(each.is_available() for each in libraries):
        return False
    listed = Path("/proc/cpuinfo")
    made_by = platform.processor() + (listed.read_text() if listed.is_file() else "")
    return "AuthenticAMD" in made_by and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@contextlib.contextmanager
def fast_linears(model: torch.nn.Module) -> Iterator[None]:
    """`model`'s fp32 linear layers by oneDNN for the time of passes without gradients, where that is faster."""
    layers = _suitable(model) if one_dnn_is_faster() else []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)  # another thread may have been here


def _suitable(model: torch.nn.Module) -> list[torch.nn.Linear]:
    return [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and type(module.weight) is torch.nn.Parameter  # quantised weights are tensors of a kind of their own
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and "forward" not in vars(module)  # somebody else has wrapped it, as accelerate does
    ]


def _forward(layer: torch.nn.Linear, states: torch.Tensor) -> torch.Tensor:
    rows = states.numel() // layer.in_features
    if rows < FEW_STATES or states.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return torch.nn.Linear.forward(layer, states)
    flat = torch.nn.functional.pad(states.reshape(rows, -1), (0, 0, 0, _filled_up(rows) - rows))
    found = torch.ops.mkldnn._linear_pointwise(flat, layer.weight, layer.bias, "none", [], "")
    return found[:rows].view(*states.shape[:-1], layer.out_features)


def _filled_up(rows: int) -> int:
    """To how many rows states are filled up: oneDNN keeps memory for every number that it has seen, for good.

    >>> [_filled_up(rows) for rows in (8, 16, 17, 300)]
    [16, 16, 32, 384]
    """
    step = STEP if rows <= 16 * STEP else 8 * STEP
    return -(-rows // step) * step
