"""Caches: fork, join and grow a model's key-value and convolution states.

A hybrid model's cache has two kinds of layers. Attention layers hold keys and values `[B, kv_heads, T, d]` and
grow; a convolution layer holds its last few inputs `[B, H, K]` and is overwritten in place by every step. The
functions here treat both, so that a cache that was prefilled once can be used many times without ever being
changed. A layer with a sliding window keeps all its keys here, as the attention that reads them knows the window.
Layers may lie on different devices, as a device map puts them. They run no model.
"""

import copy
from dataclasses import dataclass

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


def is_convolution(layer) -> bool:
    """Whether a cache layer holds convolution states rather than keys and values."""
    return hasattr(layer, "conv_states")


def growing_cache(config) -> DynamicCache:
    """An empty cache for a model of `config` in which no attention layer forgets."""
    cache = DynamicCache(config=config)
    cache.layers = [layer if is_convolution(layer) else DynamicLayer() for layer in cache.layers]
    return cache


def take_rows(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A copy of the given rows, on the device of `states`."""
    return states[rows.to(states.device)]


def fork_cache(cache: DynamicCache, rows: torch.Tensor | None = None) -> DynamicCache:
    """A cache that can be written to without changing `cache`.

    Attention layers grow by concatenation, so sharing their tensors is safe; convolution states are cloned.

    Args:
        cache: What to fork; an attention layer may be empty.
        rows: Which rows to take, repeats allowed; None: all.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in twin.layers:
        if is_convolution(layer):
            layer.conv_states = {
                i: s.clone() if rows is None else take_rows(s, rows) for i, s in layer.conv_states.items()
            }
        elif rows is not None and layer.is_initialized:
            layer.keys, layer.values = take_rows(layer.keys, rows), take_rows(layer.values, rows)
    return twin


@dataclass(frozen=True)
class PrefixKeys:
    """Keys and values of one row by layer, each on its block's device.

    No mapping on purpose: accelerate moves all tensors of a mapping that a block is called with to that block's device.

    Attributes:
        layers: Layer index -> (keys, values), each `[kv_heads, T, d]`.
    """

    layers: dict[int, tuple[torch.Tensor, torch.Tensor]]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(keys, values) of layer `number`."""
        return self.layers[number]


def take_keys(cache: DynamicCache) -> PrefixKeys:
    """Take the keys and values of a one-row cache out of it, leaving its attention layers empty."""
    taken = {}
    for number, layer in enumerate(cache.layers):
        if not is_convolution(layer):
            taken[number] = (layer.keys[0], layer.values[0])
            cache.layers[number] = type(layer)()
    return PrefixKeys(taken)


def join_caches(parts: list[DynamicCache], length: int) -> DynamicCache:
    """The rows of several caches in one, their keys and values filled up with zeros behind, to `length` tokens."""

    def filled(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(states, (0, 0, 0, length - states.shape[2]))

    joined = fork_cache(parts[0])
    for number, layer in enumerate(joined.layers):
        pieces = [part.layers[number] for part in parts]
        if is_convolution(layer):
            layer.conv_states = {i: torch.cat([piece.conv_states[i] for piece in pieces]) for i in layer.conv_states}
        else:
            layer.keys = torch.cat([filled(piece.keys) for piece in pieces])
            layer.values = torch.cat([filled(piece.values) for piece in pieces])
    return joined


def keep_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Drop all rows but `rows` from a forked cache, layer by layer, so that memory never holds it twice."""
    for layer in cache.layers:
        if is_convolution(layer):
            layer.conv_states = {i: take_rows(states, rows) for i, states in layer.conv_states.items()}
        else:
            layer.keys, layer.values = take_rows(layer.keys, rows), take_rows(layer.values, rows)


class RoomyLayer(DynamicLayer):
    """Keys and values with room behind them: a decoding step writes one column instead of copying them all.

    Args:
        layer: Where keys and values come from.
        room: How many tokens may be added.
    """

    def __init__(self, layer: DynamicLayer, room: int):
        super().__init__()
        self.length = layer.keys.shape[2]
        self.keys = torch.nn.functional.pad(layer.keys, (0, 0, 0, room))
        self.values = torch.nn.functional.pad(layer.values, (0, 0, 0, room))
        self.is_initialized = True

    def update(self, key_states, value_states, *args, **kwargs):
        """Write new keys and values `[B, kv_heads, T, d]` and return all so far."""
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def give_room(cache: DynamicCache, room: int) -> None:
    """Let a forked cache's attention layers take `room` more tokens in place."""
    for number, layer in enumerate(cache.layers):
        if not is_convolution(layer):
            cache.layers[number] = RoomyLayer(layer, room)
