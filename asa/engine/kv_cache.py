"""Caches: fork, join and grow a model's key-value and convolution states.

A hybrid model's cache has two kinds of layers. Attention layers hold keys and values `[B, kv_heads, T, d]` and
grow; a convolution layer holds its last few inputs `[B, H, K]` and is overwritten in place by every step. The
functions here treat both, so that a cache that was prefilled once can be used many times without ever being
changed. A layer with a sliding window keeps all its keys here, as the attention that reads them knows the window.
Layers may lie on different devices, as a device map puts them. They run no model.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer


def is_convolution(layer: object) -> bool:
    """Whether a cache layer holds convolution states rather than keys and values."""
    return hasattr(layer, "conv_states")


def layers_of(cache: DynamicCache) -> list[Any]:
    """Its layers; what a kind of layer holds is known by `is_convolution`, not by its class, which versions rename."""
    return cache.layers


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of `config` in which no attention layer forgets."""
    cache = DynamicCache(config=config)
    cache.layers = [layer if is_convolution(layer) else DynamicLayer() for layer in layers_of(cache)]
    return cache


def take_rows(states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A copy of the given rows, on the device of `states`."""
    return states[rows.to(states.device)]


def fork_cache(cache: DynamicCache, rows: torch.Tensor | None = None) -> DynamicCache:
    """A cache that can be written to without changing `cache`.

    Attention layers share their tensors: they grow by concatenation, or into room that is empty in `cache` and that one
    fork after the other may use. Convolution states are cloned.

    Args:
        cache: What to fork; an attention layer may be empty.
        rows: Which rows to take, repeats allowed; None: all.
    """
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in layers_of(twin):
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
    for number, layer in enumerate(layers_of(cache)):
        if not is_convolution(layer):
            taken[number] = (layer.keys[0], layer.values[0])
            cache.layers[number] = type(layer)()
    return PrefixKeys(taken)


def put_keys(cache: DynamicCache, keys: PrefixKeys) -> DynamicCache:
    """Put keys and values back into the empty attention layers of a one-row cache, which then goes on behind them."""
    for number, layer in enumerate(layers_of(cache)):
        if not is_convolution(layer):
            layer.update(*(states[None] for states in keys[number]))
    return cache


def join_caches(parts: list[DynamicCache], length: int) -> DynamicCache:
    """The rows of several caches in one, their keys and values filled up with zeros behind, to `length` tokens.

    Behind them is room for one token, so that replays of the last one copy nothing.
    """

    def filled(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(states, (0, 0, 0, length + 1 - states.shape[2]))

    joined = fork_cache(parts[0])
    for number, layer in enumerate(layers_of(joined)):
        pieces = [layers_of(part)[number] for part in parts]
        if is_convolution(layer):
            layer.conv_states = {i: torch.cat([piece.conv_states[i] for piece in pieces]) for i in layer.conv_states}
        else:
            keys = torch.cat([filled(piece.keys) for piece in pieces])
            values = torch.cat([filled(piece.values) for piece in pieces])
            joined.layers[number] = RoomyLayer(keys, values, length)
    return joined


def keep_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Drop all rows but `rows` from a forked cache, layer by layer, so that memory never holds it twice."""
    for layer in layers_of(cache):
        if is_convolution(layer):
            layer.conv_states = {i: take_rows(states, rows) for i, states in layer.conv_states.items()}
        else:
            layer.keys, layer.values = take_rows(layer.keys, rows), take_rows(layer.values, rows)


class RoomyLayer(DynamicLayer):
    """Keys and values with room behind them: a step writes one column instead of copying them all.

    Args:
        keys: `[B, kv_heads, T, d]`.
        values: As `keys`.
        length: How many of the T columns hold tokens; the others are room.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int):
        super().__init__()
        self.keys, self.values, self.length = keys, values, length
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new keys and values `[B, kv_heads, T, d]` and return all so far."""
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def give_room(cache: DynamicCache, room: int) -> None:
    """Let the attention layers of a fork of a joined cache take `room` tokens in place, in columns of their own."""

    def roomy(states: torch.Tensor, length: int) -> torch.Tensor:
        return torch.nn.functional.pad(states[:, :, :length], (0, 0, 0, room))

    for number, layer in enumerate(layers_of(cache)):
        if not is_convolution(layer):
            keys, values = roomy(layer.keys, layer.length), roomy(layer.values, layer.length)
            cache.layers[number] = RoomyLayer(keys, values, layer.length)


def line_up(caches: list[DynamicCache], unused: list[int], width: int, room: int) -> DynamicCache:
    """The rows of several roomy caches in one, so that their next tokens fall into the same column.

    Args:
        caches: Given up, layer by layer, so that memory never holds them twice.
        unused: How many leading columns of each no row needs.
        width: Columns of the widest, without those.
        room: How many tokens may be added.
    """

    def moved(states: torch.Tensor, skip: int, length: int) -> torch.Tensor:
        return torch.nn.functional.pad(states[:, :, skip:length], (0, 0, width - (length - skip), room))

    joined = copy.copy(caches[0])
    joined.layers = []
    for pieces in zip(*map(layers_of, caches), strict=True):
        if is_convolution(pieces[0]):
            layer = copy.copy(pieces[0])
            layer.conv_states = {i: torch.cat([piece.conv_states[i] for piece in pieces]) for i in layer.conv_states}
        else:
            keys = torch.cat([moved(p.keys, skip, p.length) for p, skip in zip(pieces, unused, strict=True)])
            values = torch.cat([moved(p.values, skip, p.length) for p, skip in zip(pieces, unused, strict=True)])
            layer = RoomyLayer(keys, values, width)
            for piece in pieces:
                piece.keys = piece.values = None
        joined.layers.append(layer)
    return joined
