"""Packed rows in one FlexAttention call: a block mask over the row instead of a call per group.

On a GPU the kernel is compiled, skips blocks that nothing attends to, and copies no prompt keys per completion. On the
CPU FlexAttention has no backward pass, so that it serves there only to be compared with `packing.packed_attention`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from avrt.models.packing import PackedGroup, PackedRow
from avrt.transfer import tensor_on

_LOG = logging.getLogger(__name__)


def flex_packed_attention(
    query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float, window: int | None = None
) -> Tensor:
    """The result of `packing.packed_attention`, in one call; same arguments.

    Raises:
        NotImplementedError: If gradients are wanted on the CPU.
    """
    if window not in row.block_masks:
        row.block_masks[window] = block_mask(row.groups, query.shape[2], query.device, window)
    attend = _compiled(flex_attention) if query.is_cuda else _as_is(flex_attention)
    attended: Tensor = attend(query, key, value, block_mask=row.block_masks[window], scale=scale, enable_gqa=True)
    return attended.transpose(1, 2)


def block_mask(
    groups: Sequence[PackedGroup], length: int, device: torch.device, window: int | None = None
) -> BlockMask:
    """What each of the T tokens of a row may attend to: its prompt and its own completion, causally, in its window."""
    numbers: list[int] = []  # of each token's group
    parts: list[int] = []  # of each token's completion, -1 in a prompt
    places: list[int] = []  # of each token in its own sequence
    for number, packed in enumerate(groups):
        numbers += [number] * packed.length
        parts += [-1] * packed.prompt
        places += range(packed.prompt)
        for which, size in enumerate(packed.completions):
            parts += [which] * size
            places += range(packed.prompt, packed.prompt + size)
    group, completion, place = (tensor_on(values, device) for values in (numbers, parts, places))
    reach = length if window is None else window

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (completion[k] == -1) | (completion[k] == completion[q])
        return (group[q] == group[k]) & (k <= q) & own & (place[q] - place[k] < reach)

    # Compiled, it never holds the (T, T) mask that it sorts into blocks.
    make = _compiled(create_block_mask) if device.type == "cuda" else _as_is(create_block_mask)
    made: BlockMask = make(allowed, None, None, length, length, device=device)
    return made


def _as_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled once for all lengths."""
    _LOG.info("compiling FlexAttention, about 60 s (model.student.attention: sdpa does without)")
    return torch.compile(function, dynamic=True)
