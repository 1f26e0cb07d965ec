"""Activation-steering adapters for tool calling: read one hidden state, decide, push once."""

from asa.adapter import AdapterError, ASAAdapter, Decision, Trace

__all__ = ["ASAAdapter", "AdapterError", "Decision", "Trace"]
