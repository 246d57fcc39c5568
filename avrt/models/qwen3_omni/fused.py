"""Qwen3-Omni's decoder layers in fused form: norms and rotation, with kernels where these can run.

Norms are two of a layer's hidden states, and one each of the heads of queries and keys. Experts stay as they are: their
gate and up are halves of one product, which Liger's kernel would copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as stock

from avrt.models.fused import rms_norm, rotate, runs_fused
from avrt.models.transformers_internals import rotation_of, with_rotation


class FusedNorm(stock.Qwen3OmniMoeThinkerTextRMSNorm):  # type: ignore[misc]
    """RMSNorm in one kernel."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize (..., H)."""
        if runs_fused(hidden_states, self.weight):
            return rms_norm(hidden_states, self.weight, self.variance_epsilon)
        output: Tensor = super().forward(hidden_states)
        return output


class FusedLastNorm(stock.Qwen3OmniMoeTextRMSNorm):  # type: ignore[misc]
    """The same behind the last layer, for which transformers has another class."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize (..., H)."""
        if runs_fused(hidden_states, self.weight):
            return rms_norm(hidden_states, self.weight, self.variance_epsilon)
        output: Tensor = super().forward(hidden_states)
        return output


_stock_rotation = rotation_of(stock.Qwen3OmniMoeThinkerTextAttention.forward)


def rotate_where_it_runs(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding in one kernel, or as transformers computes it."""
    if runs_fused(query, key, cos, sin):
        return rotate(query, key, cos, sin)
    return _stock_rotation(query, key, cos, sin)


_attend = with_rotation(stock.Qwen3OmniMoeThinkerTextAttention.forward, rotate_where_it_runs)


class FusedAttention(stock.Qwen3OmniMoeThinkerTextAttention):  # type: ignore[misc]
    """Attention with the rotation of queries and keys in one kernel."""

    def forward(self, *args: Any, **settings: Any) -> Any:
        """As transformers has it."""
        forward = super().forward if torch.compiler.is_compiling() else _attend.__get__(self)
        return forward(*args, **settings)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    stock.Qwen3OmniMoeThinkerTextRMSNorm: FusedNorm,
    stock.Qwen3OmniMoeTextRMSNorm: FusedLastNorm,
    stock.Qwen3OmniMoeThinkerTextAttention: FusedAttention,
}
"""For each class of layer the one that takes its place."""
