"""Matrix products by oneDNN, on processors on which PyTorch's usual ones are slow.

PyTorch multiplies fp32 matrices with MKL, which leaves the widest registers unused on processors that Intel did not
make. oneDNN, which PyTorch has as well, uses them (`benchmarks/products.md`). A model's weights are copied for it, into
an order of its own. The products are the same up to rounding; everywhere else they are PyTorch's.
"""

import contextlib
import functools
import platform
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

MOST_BYTES = 2 << 30  # of all linear weights: larger models are not held twice
FEW_ROWS = 64  # below which a product of two small matrices gains nothing

_packed: WeakKeyDictionary[torch.nn.Linear, tuple[tuple[int, int], torch.Tensor]] = WeakKeyDictionary()


@functools.cache
def one_dnn_is_faster() -> bool:
    """Whether this is a processor with AVX-512 that AMD made, and PyTorch has what is needed."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        return False
    listed = Path("/proc/cpuinfo")
    made_by = platform.processor() + (listed.read_text() if listed.is_file() else "")
    return "AuthenticAMD" in made_by and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )


@contextlib.contextmanager
def fast_linears(model: torch.nn.Module) -> Iterator[None]:
    """`model`'s fp32 linear layers by oneDNN for the time of passes without gradients, where that is faster.

    Weights that have changed since are copied anew.
    """
    layers = _suitable(model) if one_dnn_is_faster() else []
    for layer in layers:
        layer.forward = functools.partial(_linear, _weight(layer), layer.bias)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right`, without gradients.

    Args:
        left: `[G, N, K]`.
        right: `[G, K, M]`, as one can make it from another by transposing.

    Returns:
        `[G, N, M]`.
    """
    on_cpu = left.device.type == "cpu" and left.dtype == torch.float32
    if not on_cpu or left.shape[1] < FEW_ROWS or not one_dnn_is_faster():
        return left @ right
    return torch.stack([_linear(matrix.T, None, rows) for rows, matrix in zip(left, right, strict=True)])


def _suitable(model: torch.nn.Module) -> list[torch.nn.Linear]:
    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and "forward" not in vars(module)  # somebody else has wrapped it, as accelerate does
    ]
    size = sum(layer.weight.nbytes for layer in layers)
    return layers if size <= MOST_BYTES else []


def _weight(layer: torch.nn.Linear) -> torch.Tensor:
    """A layer's weight as oneDNN orders it."""
    weight = layer.weight.detach()
    state = (weight.data_ptr(), weight._version)
    if layer not in _packed or _packed[layer][0] != state:
        _packed[layer] = (state, torch.ops.mkldnn._reorder_linear_weight(weight, None))
    return _packed[layer][1]


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
