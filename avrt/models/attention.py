"""The attention function that a student gives to transformers: packed groups, shared prompts, or the usual SDPA.

transformers hands a ready mask through to every layer untouched; where that mask is one of our layouts, the layer's
attention is computed for it, otherwise by transformers' own function.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from avrt.models.flex import flex_packed_attention
from avrt.models.packing import PackedRow, packed_attention
from avrt.models.prefix import SharedPrefix, shared_prefix_attention

# By the name that `StudentOptions.attention` calls it, what transformers is told.
OURS = {"sdpa": "avrt_sdpa", "flex": "avrt_flex"}
Layout = PackedRow | SharedPrefix


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **settings: Any
) -> tuple[Tensor, None]:
    """Dispatch on the mask; arguments and result as transformers defines them for attention functions."""
    if isinstance(attention_mask, PackedRow):
        flex = module.config._attn_implementation == OURS["flex"]
        packed = flex_packed_attention if flex else packed_attention
        return packed(query, key, value, attention_mask, settings["scaling"]), None
    if isinstance(attention_mask, SharedPrefix):
        return shared_prefix_attention(module.layer_idx, query, key, value, attention_mask, settings["scaling"]), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)


for name in OURS.values():
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
