"""Prefixes: engines whose prompts begin alike, kept so that what conversations have in common is computed once.

The beginning of a prompt is prefilled unsteered, so that a conversation that goes on gives what it would give at once.
"""

from collections import OrderedDict

from asa.engine.engine import Engine
from asa.models.fitting import shared_prefix
from asa.models.known_prompts import common_start
from asa.models.layout import CausalModel

KEPT = 4  # engines, each with the keys and values of its prefix


class Prefixes:
    """The engines of one model, the most recently used ones.

    Args:
        model: Of transformers, in evaluation mode.
    """

    def __init__(self, model: CausalModel):
        self.model = model
        self._kept: OrderedDict[tuple[int, ...], Engine] = OrderedDict()

    def engine(self, beginning: list[int], prompts: list[list[int]]) -> Engine:
        """An engine for `prompts`, behind what they share with `beginning`; it builds on the longest one that is kept.

        Args:
            beginning: What later prompts are likely to begin with too.
            prompts: Token ids.
        """
        wanted = common_start([beginning, shared_prefix(prompts)])
        begun = [ids for ids in self._kept if list(ids) == wanted[: len(ids)]]
        nearest = self._kept[max(begun, key=len)] if begun else None
        if nearest is None or len(nearest.prefix_ids) < len(wanted):
            nearest = Engine(self.model, wanted, nearest)
        self._kept[tuple(wanted)] = nearest
        self._kept.move_to_end(tuple(wanted))
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return nearest
