"""A policy's weights as those of the plain model that other software loads.

Adapters are merged, 4-bit weights are in their full type, and what ZeRO-3 scatters is gathered; one layer at a time, so
that no process holds the model twice, and without changing anything that is trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from avrt.policy.quantized import is_quantized

Gather = Callable[[Sequence[nn.Module]], contextlib.AbstractContextManager[None]]
"""A context in which some modules' weights are whole; all ranks enter it together."""


def plain_weights(
    part: nn.Module, *, everything: bool = True, gather: Gather | None = None, without: Sequence[nn.Module] = ()
) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of each parameter of a module, as a plain one of its kind has them.

    Args:
        part: The module.
        everything: Also layers that have no adapter.
        gather: How to make weights whole that are scattered. Then all ranks have to read the same to the end, and who
            stops earlier takes part in gathering the rest.
        without: Children of the module that are left out.
    """
    stopped = False
    for prefix, piece in _pieces(part):
        wanted = everything or any(is_adapted(module) for module in piece.modules())
        if not wanted or any(piece is other for other in without):
            continue
        with contextlib.nullcontext() if gather is None else gather([piece]):
            try:
                if not stopped:
                    yield from _plain(piece, prefix, everything)
            except GeneratorExit:
                if gather is None:
                    raise
                stopped = True


def plain_state(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state of a whole model without its adapters, which are merged: to save it.

    Args:
        model: The model; nothing of it changes.
        dtype: Round merged weights to this type instead of their own.

    Returns:
        Tensors by name; merged ones are copies on the CPU, the others the model's own.
    """
    adapted = {f"{name}.": module for name, module in model.named_modules() if is_adapted(module)}
    own = tuple(adapted)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(own)}
    for prefix, layer in adapted.items():
        state |= {prefix + name: tensor.cpu() for name, tensor in _merged(layer, dtype)}
    return state


def is_adapted(module: nn.Module) -> bool:
    """Whether a module is peft's wrapper of a linear layer with a low-rank adapter."""
    return isinstance(getattr(module, "lora_A", None), nn.ModuleDict)


@torch.no_grad()
def merged_weight(layer: Any, dtype: torch.dtype | None = None) -> Tensor:
    """W + s B A of a layer with an adapter: in float32, rounded once.

    Args:
        layer: peft's wrapper.
        dtype: The type to round to; by default the one in which the layer is computed.
    """
    base = layer.base_layer
    weight: Tensor = base.dequantized() if is_quantized(base) else base.weight
    [adapter] = layer.active_adapters
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    with _whole_float32():
        merged = torch.addmm(weight.float(), up.float(), down.float(), alpha=layer.scaling[adapter])
    return merged.to(dtype or weight.dtype)


@contextlib.contextmanager
def _whole_float32() -> Iterator[None]:
    """Not TF32, which a run may compute in on a GPU: it would round a float32 student's weights to 11 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _merged(layer: Any, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the linear layer that an adapted one stands for.

    Also the bias, which has no adapter: vLLM takes up a layer's parameters together, and forgets what is missing.
    """
    yield "weight", merged_weight(layer, dtype)
    bias = layer.base_layer.bias
    if bias is not None:
        yield "bias", bias.detach().to(dtype or bias.dtype)


def _pieces(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What a module is made of: its children, and of a list of layers each by itself."""
    if not any(True for _ in part.children()):
        yield "", part
        return
    if any(parameter is not None for parameter in part._parameters.values()):
        raise NotImplementedError(f"{type(part).__name__} has parameters beside its children")
    for name, child in part.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{i}.", layer) for i, layer in enumerate(child))
        else:
            yield f"{name}.", child


def _plain(module: nn.Module, prefix: str, everything: bool) -> Iterator[tuple[str, Tensor]]:
    if is_adapted(module):
        yield from ((prefix + name, tensor) for name, tensor in _merged(module))
        return
    if everything:
        for name, parameter in module.named_parameters(recurse=False):
            yield prefix + name, parameter.detach()
    for name, child in module.named_children():
        yield from _plain(child, f"{prefix}{name}.", everything)
