"""FlashAttention's variable-length kernel in plain arithmetic on the CPU, so that what leads to it runs without a GPU.

It stands in for PyTorch's operator alone, with the rules of the real one: int32 ends, no read beyond them, a causal
mask that is aligned at each sequence's last query, and no sequence without queries where the longest has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from avrt.models import attention, packing
from avrt.rollout import static_caches

calls: list[int] = []
"""Number of sequences of each call."""


def _scores(query: Tensor, key: Tensor, window: tuple[int, int], scale: float) -> Tensor:
    """(h, n, m) of one sequence of (n, h, D) queries and (m, key-value heads, D) keys."""
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(0, 1).float()
    scores = query.transpose(0, 1).float() @ keys.transpose(1, 2) * scale
    allowed, last = torch.ones(scores.shape[1:], dtype=torch.bool), len(key) - len(query)
    left, right = window
    allowed = allowed if right < 0 else allowed.tril(last + right)
    allowed = allowed if left < 0 else allowed.triu(last - left)
    return scores.masked_fill(~allowed, -torch.inf)


def _attend(query: Tensor, key: Tensor, value: Tensor, window: tuple[int, int], scale: float) -> tuple[Tensor, Tensor]:
    """Output (n, h, D) and logarithm of the denominators (h, n) of one sequence."""
    scores = _scores(query, key, window, scale)
    values = value.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(0, 1).float()
    attended = (scores.softmax(-1) @ values).transpose(0, 1).to(query.dtype)
    # The kernel's logarithm of nothing is plus infinity.
    return attended, scores.logsumexp(-1) if len(key) else scores.new_full(scores.shape[:2], torch.inf)


def _forward(
    query, key, value, query_ends, key_ends, longest_query, longest_key, causal=False, scale=None, window=(-1, -1), *_,
    **__,
):  # fmt: skip
    assert query_ends.dtype == key_ends.dtype == torch.int32
    queries, keys = query_ends.diff().tolist(), key_ends.diff().tolist()
    assert len(queries) == len(keys)
    assert max(queries) <= longest_query
    assert max(keys) <= longest_key
    assert sum(queries) == len(query)
    assert int(key_ends[-1]) == len(key)
    if longest_query == 1:
        assert set(queries) == {1}
    calls.append(len(queries))
    out = torch.full_like(query, torch.nan)
    normalizer = torch.full((query.shape[1], len(query)), torch.nan)
    at = before = 0
    for n, m in zip(queries, keys, strict=True):
        if n:
            part = _attend(query[at : at + n], key[before : before + m], value[before : before + m], window, scale)
            out[at : at + n], normalizer[:, at : at + n] = part
        at, before = at + n, before + m
    return out, normalizer, torch.zeros(2, dtype=torch.uint64)


def _backward(
    gradient, query, key, value, out, normalizer, query_ends, key_ends, longest_query, longest_key, causal, state,
    scale=None, window=(-1, -1),
):  # fmt: skip
    d_query, d_key, d_value = (torch.zeros_like(t) for t in (query, key, value))
    at = before = 0
    for n, m in zip(query_ends.diff().tolist(), key_ends.diff().tolist(), strict=True):
        own, seen = slice(at, at + n), slice(before, before + m)
        at, before = at + n, before + m
        heads, groups = query.shape[1], key.shape[1]
        weights = (_scores(query[own], key[seen], window, scale) - normalizer[:, own, None]).exp()
        d_out, values = gradient[own].transpose(0, 1).float(), value[seen].repeat_interleave(heads // groups, 1)
        d_weights = d_out @ values.permute(1, 2, 0).float()
        along = (d_out * out[own].transpose(0, 1).float()).sum(-1, keepdim=True)
        d_scores = weights * (d_weights - along) * scale
        keys = key[seen].repeat_interleave(heads // groups, 1).transpose(0, 1).float()
        d_query[own] = (d_scores @ keys).transpose(0, 1).to(query.dtype)
        for total, part in (
            (d_key, d_scores.transpose(1, 2) @ query[own].transpose(0, 1).float()),
            (d_value, weights.transpose(1, 2) @ d_out),
        ):
            total[seen] = part.view(groups, -1, m, part.shape[-1]).sum(1).transpose(0, 1).to(total.dtype)
    return d_query, d_key, d_value


varlen._varlen_attn.register_kernel("cpu")(_forward)
varlen._varlen_attn_backward.register_kernel("cpu")(_backward)


@contextmanager
def varlen_on_cpu(widest: int | None = None) -> Iterator[list[int]]:
    """Have every place that asks take the fused kernel; yields `calls`, emptied.

    Args:
        widest: Of the heads that the kernel takes; None takes all.
    """

    def supports(tensor: Tensor, width: int | None = None) -> bool:
        return widest is None or (tensor.shape[-1] if width is None else width) <= widest

    with pytest.MonkeyPatch.context() as patch:
        for module in (attention, packing, static_caches):
            patch.setattr(module, "supports_varlen", supports)
        calls.clear()
        yield calls
