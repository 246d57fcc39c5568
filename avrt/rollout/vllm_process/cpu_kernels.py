"""Puts two things right in the kernels of vLLM 0.32's CPU build; elsewhere nothing is touched.

oneDNN's product of matrices takes rows that lie one behind the other only, and is given others by Gemma 4, whose layers
each read a part of one tensor.

Experts are multiplied from a packed copy of their weights, which is made when the model is loaded and not when weights
are pushed later: the plain ones are then new, and what is computed is old.

To be called before vLLM makes its model. Runs in the engine's own Python environment, so it imports nothing of this
project.
"""

from __future__ import annotations

from typing import Any


def mend_cpu_kernels() -> list[str]:
    """Put both right, where vLLM computes on a CPU.

    Returns:
        What this vLLM has not.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return []
    return [*_contiguous_rows(), *_experts_packed_again()]


def _contiguous_rows() -> list[str]:
    from vllm import _custom_ops

    multiply = getattr(_custom_ops, "onednn_mm", None)
    if multiply is None:
        return ["onednn_mm"]
    _custom_ops.onednn_mm = lambda handler, x, bias: multiply(handler, x.contiguous(), bias)
    return []


def _experts_packed_again() -> list[str]:
    try:
        from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
            UnquantizedFusedMoEMethod as Method,
        )
    except ImportError:
        return ["UnquantizedFusedMoEMethod"]
    set_up = getattr(Method, "_setup_kernel", None)
    if set_up is None:
        return ["UnquantizedFusedMoEMethod._setup_kernel"]

    def again(self: Any, layer: Any, w13: Any, w2: Any) -> None:
        has_kernel = self.moe_kernel is not None
        set_up(self, layer=layer, w13=w13, w2=w2)
        if has_kernel:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    Method._setup_kernel = again
    return []
