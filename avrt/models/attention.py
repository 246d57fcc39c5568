"""The attention function that a policy gives to transformers: packed groups, a shared prefix, or the usual SDPA.

transformers hands a ready mask through to every layer untouched; where that mask is one of our layouts, the layer's
attention is computed for it, otherwise by transformers' own function.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from avrt.models.flex import flex_packed_attention
from avrt.models.packing import PackedRow, packed_attention
from avrt.models.prefix import SharedPrefix, shared_prefix_attention
from avrt.models.transformers_internals import attention_name, register_attention, stock_sdpa

ATTENTION_IMPLEMENTATIONS = {"sdpa": "avrt_sdpa", "flex": "avrt_flex"}
"""What transformers is told for each `StudentOptions.attention` that supports packing."""
Layout = PackedRow | SharedPrefix


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, None]:
    """Dispatch on the mask; arguments and result as transformers defines them for attention functions."""
    if isinstance(attention_mask, PackedRow):
        flex = attention_name(module.config) == ATTENTION_IMPLEMENTATIONS["flex"]
        packed = flex_packed_attention if flex else packed_attention
        return packed(query, key, value, attention_mask, settings["scaling"]), None
    if isinstance(attention_mask, SharedPrefix):
        return shared_prefix_attention(module.layer_idx, query, key, value, attention_mask, settings["scaling"]), None
    output: tuple[Tensor, None] = stock_sdpa(module, query, key, value, attention_mask, **settings)
    return output


for _name in ATTENTION_IMPLEMENTATIONS.values():
    register_attention(_name, attention)
