"""LoRA: low-rank adapters on linear layers of decoder, projectors and towers, by peft."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from avrt.errors import AvrtError
from avrt.models.family import Family
from avrt.policy.quantized import quiet
from avrt.policy.student_options import LoraOptions


def projector_names(model: nn.Module, family: Family) -> list[str]:
    """Names of the linear layers between towers and decoder."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(family.projectors, name)
    ]


def adapted_names(model: nn.Module, family: Family, modules: Sequence[str]) -> list[str]:
    """Names of the linear layers that have adapters, in the model's order.

    Args:
        model: A model without adapters; its weights are not looked at.
        family: Its family.
        modules: As in `LoraOptions`.

    Raises:
        AvrtError: If the family has none of a kind.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    between = set(projector_names(model, family))
    encoders = {id(module) for tower in family.towers(model) for module in tower.modules()}
    names = {
        "decoder": {name for name in linear if re.fullmatch(family.lora_targets, name)},
        "projector": between,
        "towers": {name for name in linear if id(model.get_submodule(name)) in encoders} - between,
    }
    for module in modules:
        if not names[module]:
            raise AvrtError(
                f"{family.name} has no linear layers of that kind: {module}",
                where="model.student.lora.modules",
                remedy="leave it out",
            )
    chosen = set().union(*(names[module] for module in modules))
    return [name for name in linear if name in chosen]


def add_adapters(model: Any, family: Family, lora: LoraOptions, *, quantized: bool = False) -> Any:
    """Put adapters on linear layers.

    Args:
        model: The model, changed in place.
        family: Its family, which knows where they are.
        lora: Their rank, scale, dropout and place.
        quantized: Whether these layers have 4 bits.

    Returns:
        peft's wrapper around the same model.

    Raises:
        AvrtError: If peft is not installed, or the model has no such layers.
    """
    quiet()
    try:
        import peft
    except ImportError:
        raise AvrtError(
            "LoRA needs the package peft", where="model.student.lora", remedy="pip install 'avrt[lora]'"
        ) from None
    # A pattern says the same in one line of what is saved, where the decoder alone has them. In a model with experts
    # peft would take the last part of each name for it, and put adapters on the sound tower's attention too.
    as_pattern = tuple(lora.modules) == ("decoder",) and family.decoder(model).experts_per_token is None
    targets = family.lora_targets if as_pattern else adapted_names(model, family, lora.modules)
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
