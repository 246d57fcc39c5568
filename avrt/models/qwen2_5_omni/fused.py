"""Qwen2.5-Omni's decoder layers in fused form: the layers of transformers, with kernels where these can run.

The multimodal sections of the rotary embedding are put together once for all layers, by transformers, before the first
of them: what each layer applies is the plain rotation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as stock

from avrt.models.fused import rms_norm, rotate, runs_fused, silu_product
from avrt.models.transformers_internals import rotation_of, with_rotation


class FusedNorm(stock.Qwen2_5OmniRMSNorm):  # type: ignore[misc]
    """RMSNorm in one kernel."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Normalize (..., H)."""
        if runs_fused(hidden_states, self.weight):
            return rms_norm(hidden_states, self.weight, self.variance_epsilon)
        output: Tensor = super().forward(hidden_states)
        return output


class FusedMLP(stock.Qwen2MLP):  # type: ignore[misc]
    """SwiGLU with the activation and the product in one kernel."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Map (..., H) to (..., H)."""
        if not runs_fused(hidden_state):
            output: Tensor = super().forward(hidden_state)
            return output
        gate, up = self.gate_proj(hidden_state), self.up_proj(hidden_state)
        product = silu_product(gate, up) if runs_fused(gate, up) else self.act_fn(gate) * up
        projected: Tensor = self.down_proj(product)
        return projected


_stock_rotation = rotation_of(stock.Qwen2_5OmniAttention.forward)


def rotate_where_it_runs(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding in one kernel, or as transformers computes it."""
    if runs_fused(query, key, cos, sin):
        return rotate(query, key, cos, sin)
    return _stock_rotation(query, key, cos, sin)


_attend = with_rotation(stock.Qwen2_5OmniAttention.forward, rotate_where_it_runs)


class FusedAttention(stock.Qwen2_5OmniAttention):  # type: ignore[misc]
    """Attention with the rotation of queries and keys in one kernel."""

    def forward(self, *args: Any, **settings: Any) -> Any:
        """As transformers has it."""
        forward = super().forward if torch.compiler.is_compiling() else _attend.__get__(self)
        return forward(*args, **settings)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    stock.Qwen2_5OmniRMSNorm: FusedNorm,
    stock.Qwen2MLP: FusedMLP,
    stock.Qwen2_5OmniAttention: FusedAttention,
}
"""For each class of layer the one that takes its place."""


def fused_classes(config: Any) -> dict[type, type]:
    """The classes for a decoder of this configuration: SwiGLU only where the activation is SiLU."""
    swiglu = config.hidden_act in ("silu", "swish")
    return {kind: fused for kind, fused in FUSED.items() if swiglu or kind is not stock.Qwen2MLP}
