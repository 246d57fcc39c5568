"""Fused layers on a GPU: norm, SwiGLU and rotary embedding of the decoder in one kernel each, by Liger-Kernel.

A layer decides by its tensors: where Triton runs (CUDA, or anywhere under its interpreter, TRITON_INTERPRET=1) it calls
Liger's kernel, elsewhere what it did before; so one model works in both places. Inside `torch.compile` it also does
what it did before, because Inductor fuses that by itself.

What the backward pass keeps, in bytes per token and layer of width H and MLP width I in bf16: the norms one bf16 input
instead of float32 and a normalized copy, 8 H less for the two of a layer; SwiGLU recomputes one of its four tensors,
2 I less; the rotary embedding keeps nothing in either form.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from avrt.errors import AvrtError

KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)
FusedLayers = bool | Literal["auto"]


def fuse_layers(model: nn.Module, fused: Mapping[type, type], wanted: FusedLayers) -> int:
    """Let a model's layers use fused kernels, in place; names, parameters and values stay.

    Args:
        model: The decoder layers.
        fused: For each class of layer the subclass that takes its place.
        wanted: True; False; or `auto`, which is where a GPU and Liger-Kernel are there.

    Returns:
        How many layers were replaced.

    Raises:
        AvrtError: If they are wanted and Liger-Kernel, a GPU or the family's own subclasses are missing.
    """
    if wanted is False or (wanted == "auto" and not (fused and _installed() and torch.cuda.is_available())):
        return 0
    where = "model.student.fused_layers"
    if not fused:
        raise AvrtError("this model's layers have no fused form", where=where, remedy="set it to auto or false")
    if not _installed():
        raise AvrtError(
            "fused layers need the package liger-kernel", where=where, remedy="pip install 'avrt[fused]', or set auto"
        )
    if not (torch.cuda.is_available() or _interpreted()):
        raise AvrtError("fused layers need a GPU", where=where, remedy="set it to auto or false")
    layers = [layer for layer in model.modules() if type(layer) in fused]
    for layer in layers:
        layer.__class__ = fused[type(layer)]
    return len(layers)


def runs_fused(*tensors: Tensor) -> bool:
    """Whether Liger's kernels can and should take these tensors: same type, on a GPU, not being compiled."""
    if torch.compiler.is_compiling():
        return False
    first = tensors[0]
    alike = all(tensor.dtype == first.dtype for tensor in tensors)
    return alike and first.dtype in KERNEL_TYPES and first.numel() > 0 and (first.is_cuda or _interpreted())


def rms_norm(hidden: Tensor, weight: Tensor, eps: float) -> Tensor:
    """X / sqrt(mean(x^2) + eps) in float32, rounded to the type of x, times the weight (arXiv 1910.07467).

    Args:
        hidden: (..., H).
        weight: (H,).
        eps: Added to the mean square.
    """
    # Not in place: the gradient that arrives may be another node's as well, and H is small beside what is saved.
    output: Tensor = _kernels()["norm"].apply(hidden, weight, eps, 0.0, "llama", False)
    return output


def silu_product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (SwiGLU, arXiv 2002.05202), (..., I) each; the backward pass writes over both of them.

    Nothing else may keep them, then: they have to be results of linear layers, which do not look at them again.
    """
    output: Tensor = _kernels()["swiglu"].apply(gate, up)
    return output


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding (arXiv 2104.09864) by the angles of each position, multimodal or not, written over the input.

    Args:
        query: (B, heads, T, D), as a transposed view of a (B, T, heads, D) result of a linear layer.
        key: (B, key-value heads, T, D), likewise.
        cos: (B, T, D), both halves alike.
        sin: (B, T, D), likewise.
    """
    rotated: tuple[Tensor, Tensor] = _kernels()["rotary"].apply(query, key, cos, sin)
    return rotated


@cache
def _kernels() -> dict[str, Any]:
    """Liger's autograd functions; imported late, because that takes seconds."""
    # From the modules, where they are Triton's on every device; the package puts other implementations in their place.
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction
    from liger_kernel.ops.rope import LigerRopeFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    return {"norm": LigerRMSNormFunction, "swiglu": LigerSiLUMulFunction, "rotary": LigerRopeFunction}


def _installed() -> bool:
    return find_spec("liger_kernel") is not None and find_spec("triton") is not None


def _interpreted() -> bool:
    """Whether Triton interprets its kernels, so that they run without a GPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")
