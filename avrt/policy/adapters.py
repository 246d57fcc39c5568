"""LoRA: low-rank adapters on the decoder, by peft."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from avrt.errors import AvrtError
from avrt.policy.quantized import quiet
from avrt.policy.student_options import LoraOptions


def add_adapters(model: Any, targets: str, lora: LoraOptions, *, quantized: bool = False) -> Any:
    """Put adapters on the layers whose names match a pattern.

    Args:
        model: The model, changed in place.
        targets: The pattern.
        lora: Their rank, scale and dropout.
        quantized: Whether these layers have 4 bits.

    Returns:
        peft's wrapper around the same model.

    Raises:
        AvrtError: If peft is not installed.
    """
    quiet()
    try:
        import peft
    except ImportError:
        raise AvrtError(
            "LoRA needs the package peft", where="model.student.lora", remedy="pip install 'avrt[lora]'"
        ) from None
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, bias="none"
    )
    # Adapters in the weights' own type, as DeepSpeed trains them; peft would make those of a bfloat16 student float32,
    # and its evaluation would be another policy's.
    dtype = model.dtype
    if quantized:
        model.is_loaded_in_4bit = True  # where peft looks for it
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)  # on a 4-bit layer they are float32 at first
    return adapted


def recompute_with_own_tensors(projection: Any) -> None:
    """Let a frozen layer run inside `torch.utils.checkpoint` under ZeRO-3.

    What is recomputed is compared with what was computed first, as soon as all of it is there. A trained weight goes
    into that as a tensor of its own, a frozen one as the parameter itself, which ZeRO-3 has emptied by then.

    Args:
        projection: A linear layer.
    """

    def forward(hidden: Tensor) -> Tensor:
        bias = None if projection.bias is None else projection.bias.detach()
        return functional.linear(hidden, projection.weight.detach(), bias)

    projection.forward = forward
