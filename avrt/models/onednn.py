"""Linear layers in float32 on the CPU by oneDNN's matrix product, which uses what the processor has.

PyTorch's own float32 product is MKL's. On processors of other makers than Intel that one leaves AVX-512 alone: on an
EPYC (Zen 5) oneDNN is 2.3 times as fast, from a few dozen rows on. Elsewhere it is not taken: on an EPYC without
AVX-512 (Zen 3) the two are alike, except for the gradient of the weights, where oneDNN takes 1.6 times as long. The
result is the same but for the order of the sum. What is relied on is the operator that Inductor calls for linear
layers, a private part of PyTorch. Written against 2.14; `tests/test_internals.py` checks it.
"""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_ROWS = 32
"""With fewer, the call costs more than the product."""


def product(rows: Tensor, columns: Tensor) -> Tensor:
    """(n, m) of (n, k) and (m, k): the product with the second one transposed; float32 on the CPU."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, columns, None, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """A linear layer without bias, (n, k) and (m, k) -> (n, m)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        for_inputs, for_weight = ctx.needs_input_grad
        # A frozen layer keeps nothing of its inputs, as `nn.Linear` does.
        ctx.save_for_backward(inputs if for_weight else None, weight if for_inputs else None)
        return product(inputs, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        for_inputs, for_weight = ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if for_inputs else None,
            product(gradient.t(), inputs.t()) if for_weight else None,
        )


class OneDnnLinear(nn.Linear):
    """A linear layer that takes oneDNN's product where that is faster; names, parameters and values stay."""

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., k) -> (..., m)."""
        if not _is_faster(inputs, self.weight):
            return super().forward(inputs)
        outputs: Tensor = _Linear.apply(inputs.reshape(-1, inputs.shape[-1]), self.weight)
        outputs = outputs.view(*inputs.shape[:-1], -1)
        return outputs if self.bias is None else outputs + self.bias


def suits_processor() -> bool:
    """Whether oneDNN is the faster one here: on a processor with AVX-512 that MKL does not use."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512") and _vendor() not in ("", "GenuineIntel")


@cache
def _vendor() -> str:
    """The processor's maker as Linux knows it; empty elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "vendor_id":
                return value.strip()
    return ""


def use_onednn(model: nn.Module) -> None:
    """Let a model's plain linear layers be `OneDnnLinear`, in place, where oneDNN is the faster one."""
    if not (hasattr(torch.ops.mkldnn, "_linear_pointwise") and suits_processor()):
        return
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = OneDnnLinear


def _is_faster(inputs: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's product can and should take these two; not inside `torch.compile`, which chooses by itself."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and inputs.numel() >= LEAST_ROWS * inputs.shape[-1] > 0
        and not torch.compiler.is_compiling()
        and not hasattr(weight, "ds_id")  # ZeRO-3, which has a function of its own for weights that come and go
    )
