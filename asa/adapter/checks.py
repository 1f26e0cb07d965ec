"""Checks: what an adapter's settings and arrays must be, and on which model it may act.

Every fault is one sentence. Nothing is read or repaired here.
"""

import math
import sys
from collections.abc import Callable

import torch

from asa.adapter.decision import AdapterError
from asa.models.fingerprint import fingerprint, fingerprint_fault, model_difference
from asa.models.layout import CausalModel, decoder_layers


def setting_in(config: dict, name: str, wanted: str, fits: Callable[[float], bool] = lambda _: True) -> float:
    """A setting that must be a finite number, not negative, and what `fits` says."""
    value = config[name]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 <= value <= sys.float_info.max and fits(value)):
        raise AdapterError(f"{name} must be {wanted}, not {value!r}: fit again.")
    return float(value)


def domains_in(config: dict) -> list[str]:
    """The domains, which must be names, each once."""
    found = config["domains"]
    if not (isinstance(found, list) and found and all(isinstance(name, str) and name for name in found)):
        raise AdapterError(f"domains must be a list of names, not {found!r}: fit again.")
    if len(set(found)) < len(found):
        raise AdapterError(f"domains {found} name one of them twice: fit again.")
    return list(found)


def refuse_odd_arrays(arrays: dict[str, torch.Tensor], count: int, model: dict) -> None:
    """Refuse arrays that do not fit `count` domains and the fingerprint `model`, or are not finite."""
    width = int(setting_in(model, "hidden_size", "a whole number"))
    expected = {"weight": (2 * count, width), "bias": (2 * count,), "vectors": (count, width)}
    for name, shape in expected.items():
        if tuple(arrays[name].shape) != shape:
            raise AdapterError(f"adapter array {name} has shape {tuple(arrays[name].shape)}, not {shape}.")
        if not arrays[name].isfinite().all():
            raise AdapterError(f"adapter array {name} holds NaN or infinity: fit again.")


def layer_in(config: dict) -> int:
    """The block that is steered, which the fitted model must have."""
    layer = int(setting_in(config, "layer", "a whole number, 0 or more", lambda value: value == int(value)))
    if fault := fingerprint_fault(config["model"]):
        raise AdapterError(f"{fault}: fit again.")
    if layer >= config["model"].get("num_hidden_layers", math.inf):
        raise AdapterError(f"layer {layer} is none of the model's {config['model']['num_hidden_layers']}: fit again.")
    return layer


def refuse_other_model(model: CausalModel, fitted: dict, layer: int) -> None:
    """Refuse a model other than that of the fingerprint `fitted`, or without such a layer."""
    try:
        problem = model_difference(fingerprint(model), fitted)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"the adapter's fingerprint of its model is damaged ({error}): save it again.") from error
    if problem:
        raise AdapterError(f"the adapter {problem}")
    if not 0 <= layer < len(decoder_layers(model)):
        raise AdapterError(f"the adapter steers layer {layer}, which the model does not have: fit again.")


def threshold_in(config: dict) -> float | None:
    """The p_tool from which a wanted share of false calls opens the gate; None where tau does."""
    return setting_in(config, "threshold", "in [0, 1]", lambda value: value <= 1) if "threshold" in config else None


def refuse_odd_tool_choice(config: dict) -> None:
    """Refuse a `tool_choice` that does not say how sure the router must be; it may be missing or empty."""
    choice = config.get("tool_choice", {})
    if not isinstance(choice, dict):
        raise AdapterError(f"tool_choice must be an object, not {choice!r:.40}: fit again.")
    if choice:
        setting_in({"sure": 0.0} | choice, "sure", "in [0, 1]", lambda value: value <= 1)


def flag_in(config: dict, name: str) -> bool:
    """A setting that must be true or false; false where it is not there."""
    value = config.get(name, False)
    if type(value) is not bool:
        raise AdapterError(f"{name} must be true or false, not {value!r}: fit again.")
    return value


def look_ahead_in(config: dict) -> bool:
    """Whether the adapter is to look ahead, for which it must know the token that opens a call."""
    wanted, token = flag_in(config, "look_ahead"), config.get("trigger_id")
    vocabulary = config["model"].get("vocab_size", math.inf)
    if token is not None and not (type(token) is int and 0 <= token < vocabulary):
        raise AdapterError(f"trigger_id must be one of the model's tokens, not {token!r:.40}: fit again.")
    if wanted and token is None:
        raise AdapterError("the adapter looks ahead and has no trigger_id, the token that opens a call: fit again.")
    return wanted
