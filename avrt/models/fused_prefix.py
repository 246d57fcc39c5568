"""Decoding over a shared prompt by the fused kernel for sequences of different lengths, on a GPU in half precision.

The kernel gives a block of the GPU one sequence's queries of one head, and the block reads all their keys one after
the other. A decoding step has few queries and long keys: on an H200 8 prompts of 2,000 tokens kept it busy for 60
microseconds a call, half of the whole step (docs/gpu.md). So keys are cut into parts that blocks read side by side, as
Flash-Decoding does (Dao et al., 2023), and the query heads that share a key-value head are queries of one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.models.prefix import SharedPrefix
from avrt.models.varlen import Sequences, varlen_attention

BLOCKS = 256
"""How many blocks a call is cut into: about two for each of the 132 multiprocessors of an H100 or H200."""
SHORTEST_PART = 128
"""Keys; shorter parts would cost more to join than they save."""


@dataclass(frozen=True)
class Rooms:
    """The keys of n sequences, each in a room of P tokens that is seldom full, and read by Q queries.

    Attributes:
        keys: Ends of the sequences, of queries as of keys, as the kernel is told of them: of each room `parts` with all
            its queries, and what is left of it, before and behind, with none.
        count: n.
        parts: Even parts that a room's keys are cut into.
    """

    keys: Sequences
    count: int
    parts: int

    @classmethod
    def of(cls, lengths: Tensor, room: int, queries: int, heads: int, firsts: Tensor | None = None) -> Rooms:
        """Rooms that hold `lengths` (n,) keys, which only the device knows.

        Args:
            lengths: (n,) int64.
            room: P.
            queries: Q, of each key-value head.
            heads: Key-value heads.
            firsts: (n,) int64, the first of them that is read; None reads all.
        """
        count, device = len(lengths), lengths.device
        parts = max(1, min(-(-BLOCKS // (count * heads)), room // SHORTEST_PART))
        numbers = torch.arange(parts, device=device)
        before = torch.arange(count, device=device)[:, None] * (parts * queries)
        asking = (numbers + 1) * queries + before
        skipped = [] if firsts is None else [before]
        query_ends = torch.cat([*skipped, asking, asking[:, -1:]], dim=1)
        # The longest sequence of queries is said to be 2 at least: for 1 the kernel takes another way of reading them,
        # which allows no sequence without queries.
        ends = _from_zero(query_ends), key_ends(lengths, room, parts, firsts)
        return cls(Sequences(*ends, max(2, queries), room), count, parts)


def key_ends(lengths: Tensor, room: int, parts: int, firsts: Tensor | None = None) -> Tensor:
    """(m + 1,) int32 ends of n rooms: what each holds, `lengths` (n,), in even parts, and the rest.

    With `firsts` (n,) what is held before these comes first, as a part that nobody asks for.
    """
    starts = torch.arange(len(lengths), device=lengths.device)[:, None] * room
    numbers = torch.arange(1, parts + 1, device=lengths.device)
    if firsts is None:
        held = starts + lengths[:, None] * numbers // parts
        return _from_zero(torch.cat([held, starts + room], dim=1))
    begin = starts + firsts[:, None]
    held = begin + (lengths - firsts)[:, None] * numbers // parts
    return _from_zero(torch.cat([begin, held, starts + room], dim=1))


def _from_zero(ends: Tensor) -> Tensor:
    return torch.nn.functional.pad(ends.flatten(), (1, 0)).int()


@dataclass(frozen=True)
class FusedPrefix:
    """Prompt caches of B prompts in rooms of P tokens, each read by G completion rows, prompt by prompt.

    Attributes:
        keys: For each cache (B * P, key-value heads, D).
        values: For each cache (B * P, key-value heads, D).
        prompts: For each cache the rooms of the B prompts; None for one that the kernel does not take.
        own: For each cache the rooms of the R = B * G rows' own keys; None likewise.
        cache_of_layer: For each layer the cache that it reads.
    """

    keys: list[Tensor]
    values: list[Tensor]
    prompts: list[Rooms | None]
    own: list[Rooms | None]
    cache_of_layer: tuple[int, ...]


@dataclass(frozen=True)
class MixedPrefix:
    """For layers whose heads have different widths: fused where the kernel takes them, by matrix products elsewhere.

    Attributes:
        fused: Serves some caches; of the others it has the buffers, which it cannot read, and no rooms.
        shared: Serves the others.
        is_fused: Which, for each cache.
    """

    fused: FusedPrefix
    shared: SharedPrefix
    is_fused: list[bool]

    def of(self, layer: int) -> FusedPrefix | SharedPrefix:
        """What serves a layer."""
        return self.fused if self.is_fused[self.shared.cache_of_layer[layer]] else self.shared


def fused_prefix_attention(
    layer: int, query: Tensor, key: Tensor, value: Tensor, prefix: FusedPrefix, scale: float
) -> Tensor:
    """`shared_prefix_attention` in two fused calls, whose parts are joined by the logarithms of their denominators.

    Args:
        layer: Number of the decoder layer.
        query: (R, heads, 1, D).
        key: (R * T, key-value heads, D), rooms of T tokens with the rows' own keys, the new token's included.
        value: (R * T, key-value heads, D).
        prefix: The shared part; its rooms know a layer's window.
        scale: Factor on the products.

    Returns:
        (R, 1, heads, D).
    """
    query_RhD, cache = query[:, :, 0], prefix.cache_of_layer[layer]
    prompts, own = prefix.prompts[cache], prefix.own[cache]
    assert prompts is not None
    assert own is not None
    from_prompt, prompt_normalizer = _attend(query_RhD, prefix.keys[cache], prefix.values[cache], prompts, scale)
    from_own, own_normalizer = _attend(query_RhD, key, value, own, scale)
    normalizer_SRh = torch.cat([prompt_normalizer, own_normalizer])
    # The kernel gives plus infinity where a part has no keys.
    share_SRh = normalizer_SRh.masked_fill(normalizer_SRh == torch.inf, -torch.inf).softmax(0)
    attended_SRhD = torch.cat([from_prompt, from_own])
    return (attended_SRhD.float() * share_SRh[..., None]).sum(0).to(query.dtype)[:, None]


def _attend(query: Tensor, key: Tensor, value: Tensor, rooms: Rooms, scale: float) -> tuple[Tensor, Tensor]:
    """Output (S, R, h, D) and normalizer (S, R, h) over each of the S parts of the rows' rooms."""
    rows, heads, width = query.shape
    n, parts, groups = rooms.count, rooms.parts, key.shape[1]
    each = heads // groups  # query heads that share one key-value head
    query_nregD = query.view(n, rows // n, groups, each, width).transpose(2, 3)
    queries = query_nregD.reshape(n, 1, -1, groups, width).expand(-1, parts, -1, -1, -1).reshape(-1, groups, width)
    attended, normalizer = varlen_attention(queries, key, value, rooms.keys, scale, causal=False)
    by_part = attended.view(n, parts, rows // n, each, groups, width).permute(1, 0, 2, 4, 3, 5)
    normalizer_by_part = normalizer.view(groups, n, parts, rows // n, each).permute(2, 1, 3, 0, 4)
    return by_part.reshape(parts, rows, heads, width), normalizer_by_part.reshape(parts, rows, heads)
