"""Packed rows in one FlexAttention call: a block mask over the row instead of a call per group.

On a GPU the kernel is compiled, skips blocks that nothing attends to, and copies no prompt keys per completion. On the
CPU FlexAttention has no backward pass, so that it serves there only to be compared with `packing.packed_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from avrt.models.packing import PackedGroup, PackedRow


def flex_packed_attention(query: Tensor, key: Tensor, value: Tensor, row: PackedRow, scale: float) -> Tensor:
    """The result of `packing.packed_attention`, in one call; same arguments.

    Raises:
        NotImplementedError: If gradients are wanted on the CPU.
    """
    if row.block_mask is None:
        row.block_mask = block_mask(row.groups, query.shape[2], query.device)
    attend = _compiled() if query.is_cuda else flex_attention
    attended: Tensor = attend(query, key, value, block_mask=row.block_mask, scale=scale, enable_gqa=True)
    return attended.transpose(1, 2)


def block_mask(groups: Sequence[PackedGroup], length: int, device: torch.device) -> BlockMask:
    """What each of the T tokens of a row may attend to: its prompt and its own completion, causally."""
    group = torch.full((length,), -1, dtype=torch.int32, device=device)
    completion = torch.full((length,), -1, dtype=torch.int32, device=device)
    for number, packed in enumerate(groups):
        group[packed.start : packed.start + packed.length] = number
        at = packed.start + packed.prompt
        for which, size in enumerate(packed.completions):
            completion[at : at + size] = which
            at += size

    def allowed(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (group[q] == group[k]) & (k <= q) & ((completion[k] == -1) | (completion[k] == completion[q]))

    return create_block_mask(allowed, None, None, length, length, device=device)


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)
