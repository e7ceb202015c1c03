"""A cache of keys and values for rows of different length, in the form that transformers' models call.

Shapes: B rows, H key heads, L cached tokens, D entries a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values [rows, H, room, D] of each layer."""


class RowCache:
    """Keys and values of a batch. Row b holds `length_B[b]` tokens from the left; what lies behind is to be masked.

    `point` says where the next step writes and how far it looks; `cache` is what the model is given.
    """

    def __init__(self, like: Layers, rows: int, room: int) -> None:
        self.length_B = torch.zeros(0, dtype=torch.int64)
        self.rows_B = torch.zeros(0, dtype=torch.int64)
        self.span = 0
        self._layers = [_RowLayer(self, keys, values, rows, room) for keys, values in like]
        self.cache = Cache(layers=list(self._layers))

    def layers(self) -> Layers:
        """Keys and values of each layer, whole."""
        return [(layer.keys, layer.values) for layer in self._layers]

    def point(self, length_B: Tensor, span: int) -> None:
        """The next step writes row b at `length_B[b]`, and all rows look at the first `span` places."""
        self.length_B, self.span = length_B, span
        if len(self.rows_B) != len(length_B):
            self.rows_B = torch.arange(len(length_B), device=length_B.device)

    @torch.inference_mode()
    def put(self, layers: Layers, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` of other keys and values to rows `target` here, as many tokens as both have room for."""
        for layer, pair in zip(self._layers, layers, strict=True):
            for mine, theirs in zip((layer.keys, layer.values), pair, strict=True):
                n = min(mine.shape[2], theirs.shape[2])
                mine[target, :, :n] = theirs[source, :, :n]

    @torch.inference_mode()
    def move(self, source: Tensor, target: Tensor, tokens: int) -> None:
        """Copy the first `tokens` of rows `source` to rows `target` of this cache."""
        for layer in self._layers:
            layer.keys[target, :, :tokens] = layer.keys[source, :, :tokens]
            layer.values[target, :, :tokens] = layer.values[source, :, :tokens]

    @torch.inference_mode()
    def reserve(self, rows: int, room: int) -> None:
        """Make room for so many rows and tokens; room grows by half as much again, so that copies stay rare."""
        for layer in self._layers:
            layer.keys, layer.values = _roomy(layer.keys, rows, room), _roomy(layer.values, rows, room)


def _roomy(held: Tensor, rows: int, room: int) -> Tensor:
    if rows <= held.shape[0] and room <= held.shape[2]:
        return held
    rows = max(rows, held.shape[0])
    room = held.shape[2] if room <= held.shape[2] else max(room, held.shape[2] * 3 // 2)
    wide = held.new_zeros((rows, held.shape[1], room, held.shape[3]))
    wide[: held.shape[0], :, : held.shape[2]] = held
    return wide


class _RowLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]  # transformers types no class hooks
    """One layer of a `RowCache`."""

    is_sliding = False  # windows are in the mask; nothing is dropped

    def __init__(self, owner: RowCache, keys: Tensor, values: Tensor, rows: int, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.owner = owner
        self.keys: Tensor = keys.new_zeros((rows, keys.shape[1], room, keys.shape[3]))
        self.values: Tensor = values.new_zeros((rows, values.shape[1], room, values.shape[3]))
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is left to do: the shapes were known when the layer was made."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one token a row at its place [B, H, 1, D]; give back what the step looks at [B, H, span, D]."""
        at = self.owner
        if key_states.shape[2] != 1:
            raise ValueError(f"a step feeds one token a row, not {key_states.shape[2]}")
        # Under autocast float32 weights make keys of one precision and values of another.
        self.keys[at.rows_B, :, at.length_B] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[at.rows_B, :, at.length_B] = value_states[:, :, 0].to(self.values.dtype)
        n = len(at.rows_B)
        return self.keys[:n, :, : at.span], self.values[:n, :, : at.span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Span and its start; our masks are ready-made, so models only ask in passing."""
        del query_length
        return self.owner.span, 0

    def get_seq_length(self) -> int:
        """Tokens looked at."""
        return self.owner.span

    def get_max_length(self) -> int:
        """No limit of its own."""
        return -1
