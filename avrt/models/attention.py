"""The attention functions that a policy gives to transformers.

For the decoder: packed groups, a shared prefix, or the usual SDPA. For the towers: all windows at once. transformers
hands a `layout` through to every layer untouched; where there is one, the layer's attention is computed for it,
otherwise by transformers' own function.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from avrt.models.flex import flex_packed_attention
from avrt.models.fused_prefix import FusedPrefix, MixedPrefix, fused_prefix_attention
from avrt.models.packing import PackedRow, packed_attention
from avrt.models.prefix import SharedPrefix, shared_prefix_attention
from avrt.models.transformers_internals import attention_name, register_attention, stock_sdpa
from avrt.models.varlen import Sequences, supports_varlen, varlen_attention

ATTENTION_IMPLEMENTATIONS = {"sdpa": "avrt_sdpa", "flex": "avrt_flex"}
"""What transformers is told for each `StudentOptions.attention` that supports packing."""
TOWER_ATTENTION = "avrt_flash_windows"
"""What transformers is told for the towers; by the word flash it knows that all windows are wanted at once."""
Layout = PackedRow | SharedPrefix | FusedPrefix | MixedPrefix


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    layout: Layout | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Dispatch on the layout; other arguments and result as transformers defines them for attention functions."""
    if isinstance(layout, PackedRow):
        flex = attention_name(module.config) == ATTENTION_IMPLEMENTATIONS["flex"]
        packed = flex_packed_attention if flex else packed_attention
        return packed(query, key, value, layout, scaling, sliding_window), None
    prefix = layout.of(module.layer_idx) if isinstance(layout, MixedPrefix) else layout
    if isinstance(prefix, SharedPrefix):
        return shared_prefix_attention(module.layer_idx, query, key, value, prefix, scaling, sliding_window), None
    if isinstance(prefix, FusedPrefix):
        return fused_prefix_attention(module.layer_idx, query, key, value, prefix, scaling), None
    output: tuple[Tensor, None] = stock_sdpa(
        module, query, key, value, attention_mask, scaling=scaling, sliding_window=sliding_window, **settings
    )
    return output


def tower_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    **_settings: Any,
) -> tuple[Tensor, None]:
    """Attention within each of many windows, all in one call; the stock towers make a call per window.

    Args:
        module: The attention layer.
        query: (1, h, N, D), the windows one behind the other.
        key: The same shape.
        value: The same shape.
        attention_mask: None.
        scaling: Factor on the products.
        cu_seq_lens_q: (S + 1,) int32 ends of the windows.
        max_length_q: The longest window.
        **_settings: What else transformers tells.

    Returns:
        (1, N, h, D).
    """
    if supports_varlen(query):
        sequences = Sequences(cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        query_NhD, key_NhD, value_NhD = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        return varlen_attention(query_NhD, key_NhD, value_NhD, sequences, scaling, causal=False)[0][None], None
    _, heads, _, width = query.shape
    pieces: list[Tensor] = []
    start = 0
    for length, windows in groupby(cu_seq_lens_q.diff().tolist()):
        count = len(list(windows))
        span = slice(start, start + count * length)
        q, k, v = (t[0, :, span].reshape(heads, count, length, width).transpose(0, 1) for t in (query, key, value))
        pieces.append(scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1))
        start += count * length
    return torch.cat(pieces)[None], None


for _name in ATTENTION_IMPLEMENTATIONS.values():
    register_attention(_name, attention)
register_attention(TOWER_ATTENTION, tower_attention)
