"""Attention over many sequences of different lengths in one fused call: FlashAttention's variable-length kernel.

PyTorch's usual dispatcher gives attention in half precision to cuDNN, which makes a plan for every new shape: 0.2 to
5 s each on an H200 (docs/gpu.md), and the lengths of prompts and completions are new in nearly every micro-batch. The
variable-length kernel has no plans, needs no padding and no mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import AuxRequest, varlen_attn

from avrt.transfer import tensor_on

# Asked for where it exists (torch 2.12 on), also with as many key as query heads: it keeps cuDNN out here too.
_GROUPED: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}


@dataclass(frozen=True)
class Sequences:
    """S sequences of queries, each with its own keys, one behind the other.

    Attributes:
        query_ends: (S + 1,) int32, where each sequence's queries begin, and the end.
        key_ends: (S + 1,) int32, the same of its keys.
        longest_query: Most queries of a sequence.
        longest_key: Most keys of a sequence.
    """

    query_ends: Tensor
    key_ends: Tensor
    longest_query: int
    longest_key: int

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> Sequences:
        """From the lengths, which the host knows."""

        def ends(lengths: Sequence[int]) -> Tensor:
            return tensor_on(list(accumulate(lengths, initial=0)), device).int()

        return cls(ends(queries), ends(keys), max(queries), max(keys))


WIDEST_HEAD = 256


def supports_varlen(like: Tensor, width: int | None = None) -> bool:
    """Whether the fused kernel takes heads so wide, of tensors like this one.

    That is half precision on a GPU from the Ampere generation on, up to 256 numbers a head.

    Args:
        like: Says type and device, and by its last dimension the width of a head.
        width: Of a head, where that dimension is another.
    """
    kept = like.is_cuda and like.dtype in (torch.bfloat16, torch.float16) and _has_kernel(like.device.index)
    return kept and (like.shape[-1] if width is None else width) <= WIDEST_HEAD


@cache
def _has_kernel(device: int) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= 8


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequences,
    scale: float,
    *,
    causal: bool,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each sequence's queries to its own keys.

    Args:
        query: (N, h, D), the sequences one behind the other.
        key: (M, key-value heads, D).
        value: (M, key-value heads, D).
        sequences: Where each begins.
        scale: Factor on the products.
        causal: A sequence's last query sees all its keys, the one before all but the last, and so on.
        window: Of those it sees no more than so many, the nearest; None for all.

    Returns:
        (N, h, D), and the logarithm of each softmax's denominator, (h, N) float32.
    """
    attended, normalizer = varlen_attn(
        query,
        key,
        value,
        sequences.query_ends,
        sequences.key_ends,
        sequences.longest_query,
        sequences.longest_key,
        return_aux=AuxRequest(lse=True),
        scale=scale,
        window_size=(-1 if window is None else window - 1, 0 if causal else -1),
        **_GROUPED,
    )
    return attended, normalizer
