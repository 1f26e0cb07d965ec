"""Layers: where the need for a tool can be read, and where one may steer.

A linear probe per layer, next to two controls: shuffled labels (what overfitting alone reaches) and prompt length
alone. Reading is not steering: a layer that reads well need not push well. Formulas: arXiv 2602.04935 v1/v2,
section 3.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from asa.data.scores import auc_of
from asa.support.files import UserError
from asa.support.threads import one_thread

MOST_LAYERS = 7
READABLE = 0.03  # AUC below the best that a layer to steer may have

PLATEAU = 0.005  # AUC below the best that still counts as the plateau
CONSTANT = 1e-3  # spread over prompts, relative to the state's size, below which a layer sees no prompt


class ReadError(UserError):
    """Hidden states cannot be read; the message says what was found and what to do."""


@dataclass(frozen=True)
class LayerReading:
    """What one layer's probe reads on VALID, as areas under the ROC curve.

    Attributes:
        layer: Index of the block.
        auc: Of the probe; NaN for a constant layer.
        shuffled: Of the same probe fitted to shuffled labels.
        constant: The state hardly differs between prompts, so there is nothing to read.
    """

    layer: int
    auc: float
    shuffled: float
    constant: bool


def is_constant(states: np.ndarray) -> bool:
    """Whether states `[N, H]` of different prompts are one vector up to rounding."""
    size = np.sqrt(np.mean(np.square(states, dtype=np.float64)))
    return bool(states.std(axis=0, dtype=np.float64).max() <= CONSTANT * size)


# [layer_probe]
def _auc(fit: np.ndarray, fit_labels: np.ndarray, valid: np.ndarray, valid_labels: np.ndarray) -> float:
    scaler = StandardScaler().fit(fit)
    probe = LogisticRegression(C=1e-2, max_iter=1000).fit(scaler.transform(fit), fit_labels)
    return read_auc(valid_labels, probe.decision_function(scaler.transform(valid)))


# [/layer_probe]


def read_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """`auc_of`, where there must be one.

    Raises:
        ReadError: All labels are alike.
    """
    area = auc_of(labels, scores)
    if area is None:
        raise ReadError("VALID has requests of one label only, so there is no AUC to choose by: add some of the other.")
    return area


@one_thread()
def sweep_layers(
    fit: np.ndarray, fit_labels: np.ndarray, valid: np.ndarray, valid_labels: np.ndarray, seed: int
) -> list[LayerReading]:
    """Fit a probe per layer and score it on VALID.

    Args:
        fit: States `[N, layers, H]`.
        fit_labels: `[N]`, 0 or 1.
        valid: States `[M, layers, H]`.
        valid_labels: `[M]`.
        seed: Of the label shuffle.

    Raises:
        ReadError: Every layer is constant, a state is not finite, or `valid_labels` are all alike.
    """
    finite = np.isfinite(fit).all(axis=(0, 2)) & np.isfinite(valid).all(axis=(0, 2))
    if not finite.all():
        raise ReadError(
            f"hidden states hold NaN or infinity from layer {int(np.argmin(finite))} on: load the model in another "
            "dtype (fp32, or bf16 where the GPU has it)."
        )
    shuffled = np.random.default_rng(seed).permutation(fit_labels)
    readings = []
    for layer in range(fit.shape[1]):
        if is_constant(fit[:, layer]):
            readings.append(LayerReading(layer, float("nan"), float("nan"), True))
            continue
        real = _auc(fit[:, layer], fit_labels, valid[:, layer], valid_labels)
        control = _auc(fit[:, layer], shuffled, valid[:, layer], valid_labels)
        readings.append(LayerReading(layer, real, control, False))
    if all(reading.constant for reading in readings):
        raise ReadError("every layer's last-token state is the same for all prompts: check the prompt and the data.")
    return readings


def length_control(
    fit_lengths: list[int], fit_labels: np.ndarray, valid_lengths: list[int], valid_labels: np.ndarray
) -> float:
    """AUC on VALID of a probe that sees only the prompt's length in tokens `[N]`."""
    columns = [np.asarray(lengths, float)[:, None] for lengths in (fit_lengths, valid_lengths)]
    return _auc(columns[0], fit_labels, columns[1], valid_labels)


def plateau_layer(readings: list[LayerReading]) -> int:
    """The paper's L*: the deepest layer whose AUC is within `PLATEAU` of the best.

    >>> plateau_layer([LayerReading(layer, auc, 0.5, False) for layer, auc in enumerate((0.9, 0.899, 0.8))])
    1
    """
    best = max(reading.auc for reading in readings if not reading.constant)
    return max(reading.layer for reading in readings if not reading.constant and reading.auc >= best - PLATEAU)


def layers_to_steer(readings: list[LayerReading], by_hand: str = "", most: int = MOST_LAYERS) -> list[int]:
    """The layers named by hand, or up to `most` readable ones, evenly spaced from the first to the last but one.

    The last block is left out: a push behind it only biases the logits. The plateau rule may still name it.

    Args:
        readings: Of every layer.
        by_hand: Layers separated by commas, or "".
        most: How many, unless they are named by hand.

    Raises:
        ReadError: A layer named by hand is none of the model's, or is constant.

    >>> layers_to_steer([LayerReading(i, 0.9, 0.5, i == 0) for i in range(10)])
    [1, 2, 3, 4, 5, 6, 8]
    """
    if by_hand:
        layers = layers_by_hand(by_hand, len(readings))
        _refuse_constant(layers, readings)
        return layers
    best = max(reading.auc for reading in readings if not reading.constant)
    readable = [r.layer for r in readings if not r.constant and r.auc >= best - READABLE]
    readable = [layer for layer in readable if layer < len(readings) - 1] or readable
    places = np.linspace(0, len(readable) - 1, min(most, len(readable)))
    return [readable[int(place)] for place in places]


def layers_by_hand(text: str, count: int) -> list[int]:
    """The layers in a text, separated by commas, of a model that has `count` of them; none in "".

    Raises:
        ReadError: One is none of the model's.
    """
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if not word.isdecimal() or int(word) >= count:
            raise ReadError(f"layer {word!r}, chosen by hand, is none of this model's: use 0 to {count - 1}.")
    return [int(word) for word in words]


def _refuse_constant(layers: list[int], readings: list[LayerReading]) -> None:
    for layer in layers:
        if readings[layer].constant:
            possible = ", ".join(str(reading.layer) for reading in readings if not reading.constant)
            raise ReadError(
                f"layer {layer}, chosen by hand, holds the same state for every prompt, so nothing can be read there: "
                f"use one of {possible}."
            )
