"""Keys and values of prompts and completions in buffers of fixed shape, for decoding steps that are always the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.models.decoder import Decoder
from avrt.models.fused_prefix import FusedPrefix, MixedPrefix, Rooms
from avrt.models.layer_caches import LayerCache
from avrt.models.prefix import SharedPrefix
from avrt.models.varlen import supports_varlen
from avrt.rollout.prefill import PackedPrefill
from avrt.rollout.sampling import SamplingOptions
from avrt.transfer import tensor_on


class StaticCaches:
    """Caches of B prompts and R rows; implements what a decoder asks of transformers' caches.

    A cache's keys are (tokens, heads, D) for the fused kernel, room after room; else (rooms, heads, room, D).

    Args:
        decoder: The policy's decoder.
        slots: B.
        room: Most tokens of a prompt, P.
        rows: R.
        sampling: Says how long a completion may be.
        weight: One of the decoder's weights, for type and device.
    """

    def __init__(
        self, decoder: Decoder, slots: int, room: int, rows: int, sampling: SamplingOptions, weight: Tensor
    ) -> None:
        self._kinds, self._cache_of_layer = decoder.caches, decoder.cache_of_layer
        self._query_heads = int(decoder.language_model.config.num_attention_heads)
        self._is_fused = [supports_varlen(weight, kind.width) for kind in self._kinds]
        self._room, self._steps, self._group_size = room, sampling.max_new_tokens, rows // slots
        device = weight.device

        def buffers(count: int, length: int) -> list[Tensor]:
            shapes = [
                (count * length, kind.heads, kind.width) if fused else (count, kind.heads, length, kind.width)
                for kind, fused in zip(self._kinds, self._is_fused, strict=True)
            ]
            return [weight.new_zeros(shape) for shape in shapes]

        self._prompt_keys, self._prompt_values = buffers(slots, room), buffers(slots, room)
        self._keys, self._values = buffers(rows, self._steps), buffers(rows, self._steps)
        self._lengths = torch.ones(slots, dtype=torch.long, device=device)
        self._row_numbers = torch.arange(rows, device=device)
        self._columns = torch.zeros(rows, dtype=torch.long, device=device)

    def put(self, slots: Sequence[int], prefilled: PackedPrefill) -> None:
        """Copy the caches of some prompts into slots."""
        device = self._lengths.device
        self._lengths.index_copy_(0, tensor_on(slots, device), tensor_on(prefilled.lengths, device))
        ranges = [range(s * self._room, s * self._room + n) for s, n in zip(slots, prefilled.lengths, strict=True)]
        index = tensor_on([place for places in ranges for place in places], device)
        for buffers, filled in ((self._prompt_keys, prefilled.keys), (self._prompt_values, prefilled.values)):
            for buffer, packed, is_fused in zip(buffers, filled, self._is_fused, strict=True):
                if is_fused:
                    buffer.index_copy_(0, index, packed[0].transpose(0, 1))
                    continue
                start = 0
                for slot, length in zip(slots, prefilled.lengths, strict=True):
                    buffer[slot, :, :length] = packed[0, :, start : start + length]
                    start += length

    def before_step(self, drawn: Tensor) -> FusedPrefix | SharedPrefix | MixedPrefix:
        """Make room for every row's newest token, its number `drawn` (R,) from 1 on; returns what it may attend to."""
        self._columns = (drawn - 1).clamp(min=0)
        if all(self._is_fused):
            return self._fused_prefix()
        if not any(self._is_fused):
            return self._shared_prefix()
        return MixedPrefix(self._fused_prefix(), self._shared_prefix(), self._is_fused)

    def _shared_prefix(self) -> SharedPrefix:
        device = self._lengths.device
        mask = torch.arange(self._room, device=device) < self._lengths[:, None]
        own = torch.arange(self._steps, device=device) <= self._columns[:, None]
        return SharedPrefix(self._prompt_keys, self._prompt_values, mask, self._cache_of_layer, own=own)

    def _fused_prefix(self) -> FusedPrefix:
        """Rooms are worked out once for all caches of a kind, where the kernel takes it."""
        fused = {kind for kind, is_fused in zip(self._kinds, self._is_fused, strict=True) if is_fused}
        rooms = {kind: self._rooms(kind) for kind in fused}
        prompts, own = ([rooms[kind][which] if kind in rooms else None for kind in self._kinds] for which in (0, 1))
        return FusedPrefix(self._prompt_keys, self._prompt_values, prompts, own, self._cache_of_layer)

    def _rooms(self, kind: LayerCache) -> tuple[Rooms, Rooms]:
        """Rooms of the prompts, and of the rows' own tokens, as far back as such a cache is read."""
        each, held = self._query_heads // kind.heads, self._columns + 1
        of_prompt = of_row = None
        if kind.window is not None:
            # Rows of a prompt began together: those that still run have drawn as many as any of them.
            drawn = held.view(-1, self._group_size).amax(1)
            of_prompt = (self._lengths + drawn - kind.window).clamp(min=0).minimum(self._lengths)
            of_row = (held - kind.window).clamp(min=0)
        return (
            Rooms.of(self._lengths, self._room, self._group_size * each, kind.heads, of_prompt),
            Rooms.of(held, self._steps, each, kind.heads, of_row),
        )

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add each row's keys and values (R, heads, 1, D) to a layer's; returns all of them."""
        cache = self._cache_of_layer[layer]
        keys, values = self._keys[cache], self._values[cache]
        for buffer, new in ((keys, key), (values, value)):
            if self._is_fused[cache]:
                buffer.index_copy_(0, self._row_numbers * self._steps + self._columns, new[:, :, 0])
            else:
                buffer[self._row_numbers, :, self._columns] = new[:, :, 0]
        return keys, values

    def get_seq_length(self, layer: int = 0) -> int:
        """Not what positions are made of here."""
        return 0
