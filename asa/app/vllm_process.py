"""What each of vLLM's processes knows: the adapter that `ASA_ADAPTER` names, and what a request says of it.

Nothing here needs vLLM.
"""

import contextlib
import math
import os
from functools import lru_cache
from typing import Any

from asa.adapter import ASAAdapter
from asa.adapter.decision import AdapterError
from asa.models.saved_profiles import profile_from_json

VARIABLE, CHECKED = "ASA_ADAPTER", "ASA_CHECKED"  # the latter: a model that is known to be the adapter's
OFF = ("0", "false", "no", "off")


@lru_cache(1)
def adapter_of_process() -> ASAAdapter:
    """The adapter that `ASA_ADAPTER` names.

    Raises:
        AdapterError: It cannot be loaded.
    """
    return ASAAdapter.from_pretrained(os.environ[VARIABLE].strip())


@lru_cache(1)
def markers_of_process() -> tuple[str, str]:
    """What opens and closes a call of that adapter's model.

    Raises:
        ProfileError: The adapter does not say.
    """
    return profile_from_json(adapter_of_process().config.get("profile", {})).markers


@lru_cache(1)
def decided_counter() -> Any:
    """What `/metrics` says of the decisions: `asa_decisions_total`, by domain and gate."""
    from prometheus_client import Counter  # comes with vLLM

    return Counter("asa_decisions", "Decisions of the adapter.", ["domain", "gate"])


def is_steered(extra: Any) -> bool:
    """Whether a request with these extra arguments (None where it has none) is steered.

    >>> is_steered(None), is_steered({"asa": 0}), is_steered({"asa": 1})
    (True, False, True)
    """
    return is_on((extra or {}).get("asa", 1))


def is_on(given: Any) -> bool:
    """Whether a switch of a request is on, however it is written.

    >>> is_on(1), is_on(" False ")
    (True, False)
    """
    return str(given).strip().lower() not in OFF


def tuning_in(extra: Any) -> tuple[float | None, float | None]:
    """tau and dose in a request's extra arguments; None where it sets none.

    Raises:
        AdapterError: One is none that can be.

    >>> tuning_in({"asa_tau": "0.7"})
    (0.7, None)
    """
    tau, dose = (extra or {}).get("asa_tau"), (extra or {}).get("asa_dose")
    return _number("asa_tau", tau, 0.5, 1.0, "0.5 or more and below 1"), _number(
        "asa_dose", dose, 0, math.inf, "0 or more"
    )


def _number(name: str, given: Any, low: float, end: float, allowed: str) -> float | None:
    """A number from `low` to below `end`; None where none is given."""
    with contextlib.suppress(TypeError, ValueError):
        if given is None or low <= float(given) < end:
            return None if given is None else float(given)
    raise AdapterError(f"{name} is {str(given)[:40]!r}: give a number, {allowed}.")
