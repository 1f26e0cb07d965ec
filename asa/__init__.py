"""Activation-steering adapters for tool calling: read one hidden state, decide, push once."""

import importlib
from typing import Any

__all__ = ["ASAAdapter", "AdapterError", "Answer", "Assistant", "Decision", "Trace", "load", "valid_calls"]

_PLACES = {
    "Answer": "asa.app.answers",
    "Assistant": "asa.app.assistant",
    "load": "asa.app.assistant",
    "valid_calls": "asa.models.valid_calls",
}  # the others stand in asa.adapter


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for, so that the environment can be checked before torch loads."""
    if name in __all__:
        return getattr(importlib.import_module(_PLACES.get(name, "asa.adapter")), name)
    raise AttributeError(f"module 'asa' has no attribute {name!r}")
