"""Fingerprint: which weights an adapter was fitted on.

Two models of one shape, even with the same embeddings, may hold other blocks: a fine-tune, base against instruct, a
revision that moved. A fingerprint keeps a few numbers of every matrix and norm, and a model is refused where they
differ by more than precision explains: by a fifth where the weights lie on a coarse grid (4 bits, say), by a fiftieth
where they do not. What stands beside the weights, such as a LoRA that is not merged, is not looked at.

Weights that a quantiser packed are read through their module: what a linear map makes of unit vectors are its columns.
No prompt is run, and nothing is changed.
"""

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from asa.models.layout import CausalModel, decoder_layers, final_norm, input_device

WEIGHTS_SAMPLED = 64  # most elements of a parameter that `weights_key` looks at

EMBEDDING_TOLERANCE = 0.05  # of the lengths of token embeddings
ROWS, COLUMNS = 2, 16  # numbers kept of a matrix: neighbours in a row, as a quantiser's groups lie along rows
GRID_SHARE = 0.93  # of such neighbours that are different numbers; below it, weights lie on a coarse grid
FINE_TOLERANCE = 0.02  # relative difference of a block: 16 bits are off by .004 at most, 8 bits by .01
COARSE_TOLERANCE = 0.22  # on a coarse grid: 4 bits are off by .1 to .2
SINGLE_MATRIX = 1.8  # times the tolerance, for one matrix alone: of fewer numbers, so left more to chance


def fingerprint(model: CausalModel) -> dict:
    """What tells a model from others: its shape, the lengths of token embeddings, and numbers of every matrix.

    Args:
        model: A causal language model of transformers.

    Returns:
        A JSON object: `model_type`, `hidden_size`, `num_hidden_layers`, `vocab_size`, `embedding_norms` (16 numbers),
        `blocks` (of each block `[parts, ROWS * COLUMNS]` fp16 as base64, matrices first, then norms and biases; the
        last is of the final norm and the unembedding) and `coarse` (whether the matrices lie on a coarse grid).
    """
    config = model.config
    embed = model.get_input_embeddings()  # called, not indexed: accelerate may keep its weights elsewhere
    picked = torch.linspace(0, embed.weight.shape[0] - 1, 16, device=input_device(model)).long()
    lengths = embed(picked).detach().float().norm(dim=1)
    sampled = [sampled_block(block, model.dtype) for block in decoder_layers(model)]
    neighbours = np.concatenate([matrices for matrices, _ in sampled]).reshape(-1, COLUMNS).tolist()
    blocks = [np.concatenate(both) for both in sampled] + [sampled_ends(model)]
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "vocab_size": config.vocab_size,
        "embedding_norms": [round(length, 5) for length in lengths.tolist()],
        "blocks": [base64.b64encode(block.astype("<f2").tobytes()).decode() for block in blocks],
        "coarse": bool(np.mean([len(set(row)) / COLUMNS for row in neighbours]) < GRID_SHARE),
    }


def fingerprint_fault(value: Any) -> str:
    """What is wrong with a fingerprint that was read from a file, as the end of a sentence; empty where nothing is."""
    if not isinstance(value, dict):
        return f"model is {repr(value)[:60]}, not an object"
    for name in ("hidden_size", "num_hidden_layers", "vocab_size"):
        if name in value and (type(value[name]) is not int or value[name] < 1):
            return f"model's {name} is {repr(value[name])[:60]}"
    norms, blocks = value.get("embedding_norms", []), value.get("blocks", [])
    if not isinstance(norms, list) or not all(type(norm) in (int, float) and 0 <= norm < np.inf for norm in norms):
        return "model's embedding_norms are no list of lengths"
    if not isinstance(blocks, list) or ("blocks" in value and len(blocks) != value.get("num_hidden_layers", 0) + 1):
        return "model's blocks are not one for each layer and one for what follows"
    try:
        sizes = [len(base64.b64decode(block, validate=True)) for block in blocks]
    except (TypeError, ValueError):
        return "model's blocks are no base64"
    return "" if all(size % (2 * ROWS * COLUMNS) == 0 for size in sizes) else "model's blocks are cut off"


def model_difference(found: dict, expected: dict) -> str:
    """How a model differs from the expected one, to follow "the adapter "; empty where it is the same.

    Both are of `fingerprint`; what `expected` lacks, as an older version left it out, is not compared.
    """
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size"):
        if name in expected and found[name] != expected[name]:
            return f"needs {name} {expected[name]} but the model has {found[name]}: load its own model."
    if "embedding_norms" in expected:
        ours, theirs = (np.array(side["embedding_norms"]) for side in (found, expected))
        if not np.allclose(ours, theirs, rtol=EMBEDDING_TOLERANCE, atol=1e-3):
            return "was fitted on other weights (the embeddings differ): load the model it names, or fit again."
    if "blocks" not in expected:
        return ""
    tolerance = COARSE_TOLERANCE if found["coarse"] or expected["coarse"] else FINE_TOLERANCE
    for number, pair in enumerate(zip(found["blocks"], expected["blocks"], strict=True)):
        place = f"block {number}" if number < expected["num_hidden_layers"] else "final norm or unembedding"
        ours, theirs = (np.frombuffer(base64.b64decode(text), "<f2").astype(np.float64) for text in pair)
        if len(ours) != len(theirs):
            return f"was fitted on a model whose {place} has other parts: load the model it names, or fit again."
        off, size = (np.square(of).reshape(-1, ROWS * COLUMNS).sum(axis=1) for of in (ours - theirs, theirs))
        worst = max(_relative(off.sum(), size.sum()), _relative(off, size).max(initial=0.0) / SINGLE_MATRIX)
        if not worst <= tolerance:
            return (
                f"was fitted on other weights ({place} differs by {worst:.2f}; {tolerance} is what precision "
                "explains): load the model and revision that it names, or fit again."
            )
    return ""


def _relative(off: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Root of the ratio of two sums of squares; 0 where both are 0."""
    return np.sqrt(off / np.maximum(size, np.finfo(np.float64).tiny))


def sampled_block(block: torch.nn.Module, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of a block's matrices and of its norms and biases, `[parts, ROWS * COLUMNS]` fp32 each.

    What peft puts beside them is left out.

    Args:
        block: A decoder block.
        dtype: In which its linear maps are called where they must be.
    """
    modules = list(_own_modules(block))
    matrices = [part for module in modules for part in _sampled_module(module, dtype)]
    return _stacked(matrices), _stacked([part for module in modules for part in _sampled_vectors(module)])


def sampled_ends(model: CausalModel) -> np.ndarray:
    """The same of what follows the blocks: the final norm and, where it is not the embedding again, the unembedding."""
    head, parts = model.get_output_embeddings(), []
    with contextlib.suppress(ValueError):  # a decoder whose norm has no known name
        parts += _sampled_vectors(final_norm(model))
    if head is not None and not getattr(model.config, "tie_word_embeddings", False):
        parts += [part for module in _own_modules(head) for part in _sampled_module(module, model.dtype)]
    return _stacked(parts)


def _stacked(parts: list[torch.Tensor]) -> np.ndarray:
    if not parts:
        return np.zeros((0, ROWS * COLUMNS), np.float32)
    return torch.stack([part.float().cpu() for part in parts]).numpy()


@torch.no_grad()
def _sampled_vectors(module: torch.nn.Module) -> list[torch.Tensor]:
    """`[ROWS * COLUMNS]` of every norm or bias that a module itself holds: its first numbers, filled up with 0."""
    with _at_hand(module):
        own = [weight.detach() for weight in module.parameters(recurse=False) if weight.dim() == 1]
        own = [weight[: ROWS * COLUMNS] for weight in own if weight.is_floating_point()]
        return [torch.nn.functional.pad(weight, (0, ROWS * COLUMNS - len(weight))).clone() for weight in own]


def _own_modules(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """A module and those inside it, less what peft wrapped around them."""
    if isinstance(wrapped := getattr(module, "base_layer", None), torch.nn.Module):
        yield from _own_modules(wrapped)
        return
    yield module
    for child in module.children():
        yield from _own_modules(child)


@torch.no_grad()
def _sampled_module(module: torch.nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """`[ROWS * COLUMNS]` of every matrix that a module itself holds."""
    with _at_hand(module):
        own = [weight for weight in module.parameters(recurse=False) if weight.dim() > 1]
        packed = any(type(weight.data) is not torch.Tensor or weight.dtype.itemsize < 2 for weight in own)
        if not hasattr(module, "in_features") or (own and not packed):
            return [_picked(weight.detach()) for weight in own if not packed]
        return [_called(module, dtype)]


def _at_hand(module: torch.nn.Module) -> contextlib.AbstractContextManager:
    """A `with` in which a module's own weights are on a device, also those that accelerate keeps elsewhere."""
    if not any(weight.is_meta for weight in module.parameters(recurse=False)):
        return contextlib.nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)


def _picked(weight: torch.Tensor) -> torch.Tensor:
    """The kept numbers of a matrix (or of several, one upon another); a small one's are its first, filled up with 0."""
    flat = weight.flatten(0, -2)
    if flat.shape[1] < COLUMNS:  # a convolution's kernels
        first = flat.flatten()[: ROWS * COLUMNS]
        return torch.nn.functional.pad(first, (0, ROWS * COLUMNS - len(first)))
    rows, start = _places(*flat.shape)
    return flat[rows, start : start + COLUMNS].flatten()


def _called(module: torch.nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """The same of a linear map that must be called."""
    height, width = int(module.out_features), int(module.in_features)  # type: ignore[arg-type]  # a Linear of any build
    rows, start = _places(height, width)
    device = next(iter(module.state_dict().values())).device
    units = torch.zeros(COLUMNS + 1, width, dtype=dtype, device=device)
    units[range(COLUMNS), range(start, start + COLUMNS)] = 1
    made = module(units)
    return (made[:COLUMNS] - made[COLUMNS])[:, rows].T.flatten()


def _places(height: int, width: int) -> tuple[list[int], int]:
    """Which rows of a matrix are kept, and the first of the columns."""
    return [height // 3, 2 * height // 3], min(width // 3, width - COLUMNS)


def weights_key(model: torch.nn.Module) -> str:
    """SHA-256 of up to `WEIGHTS_SAMPLED` evenly spaced elements of every parameter, as fp32, and of its name.

    It tells weights apart that lie under one name; parameters on the meta device, offloaded ones, are left out.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if not weight.is_meta:
            step = -(-weight.numel() // WEIGHTS_SAMPLED) | 1  # odd, or it would stay in one column of a matrix
            digest.update(name.encode() + weight.detach().reshape(-1)[::step].float().cpu().numpy().tobytes())
    return digest.hexdigest()
