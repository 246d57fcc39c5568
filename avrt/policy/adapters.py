"""LoRA: low-rank adapters on the decoder, by peft."""

from __future__ import annotations

from typing import Any

from torch import nn

from avrt.errors import AvrtError
from avrt.policy.student_options import LoraOptions


def add_adapters(model: nn.Module, targets: str, lora: LoraOptions) -> Any:
    """Put adapters on the layers whose names match a pattern.

    Returns:
        peft's wrapper around the same model.

    Raises:
        AvrtError: If peft is not installed.
    """
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
    return peft.get_peft_model(model, config, autocast_adapter_dtype=False)
