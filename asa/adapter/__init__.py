"""The adapter: what it decides, the hook that steers a model by it, its files, and how it is shared."""

from asa.adapter.adapter import ASAAdapter
from asa.adapter.decision import AdapterError, Decision, Trace

__all__ = ["ASAAdapter", "AdapterError", "Decision", "Trace"]
