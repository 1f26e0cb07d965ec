"""Activation-steering adapters for tool calling: read one hidden state, decide, push once."""

from typing import Any

__all__ = ["ASAAdapter", "AdapterError", "Decision", "Trace", "valid_calls"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are asked for, so that the environment can be checked before torch loads."""
    if name == "valid_calls":
        from asa.models.valid_calls import valid_calls

        return valid_calls
    if name in __all__:
        from asa import adapter

        return getattr(adapter, name)
    raise AttributeError(f"module 'asa' has no attribute {name!r}")
