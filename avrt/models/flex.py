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


def flex_packed_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """The result of `packing.packed_attention`, in one call; same arguments.

    Raises:
        NotImplementedError: If gradients are wanted on the CPU.
    """
    if row.block_mask is None:
        row.block_mask = block_mask(row.groups, query.shape[2], query.device)
    attend = _compiled(flex_attention) if query.is_cuda else _as_is(flex_attention)
    attended: Tensor = attend(query, key, value, block_mask=row.block_mask, scale=scale, enable_gqa=True)
    return attended.transpose(1, 2)


def block_mask(groups: Sequence[PackedGroup], length: int, device: torch.device) -> BlockMask:
    """What each of the T tokens of a row may attend to: its prompt and its own completion, causally."""
    numbers: list[int] = []  # of each token's group
    parts: list[int] = []  # of each token's completion, -1 in a prompt
    for number, packed in enumerate(groups):
        numbers += [number] * packed.length
        parts += [-1] * packed.prompt
        for which, size in enumerate(packed.completions):
            parts += [which] * size
    group, completion = tensor_on(numbers, device), tensor_on(parts, device)

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (group[q] == group[k]) & (k <= q) & ((completion[k] == -1) | (completion[k] == completion[q]))

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
