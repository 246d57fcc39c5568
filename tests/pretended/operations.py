"""Which operations of PyTorch launch nothing, which are attention, and the rules for those that are not like others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tests.pretended.tensors import CUDA, META, PretendedTensor

if TYPE_CHECKING:
    from tests.pretended.device import PretendedDevice

aten = torch.ops.aten
Rule = Callable[["PretendedDevice", Any, Any, Any], Any]

ALLOCATIONS = {
    aten.empty, aten.empty_strided, aten.empty_like, aten.empty_permuted, aten.new_empty, aten.new_empty_strided,
    aten.set_, aten.resize_, aten.record_stream,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
TAKES_HOST_TENSORS = {aten.copy_, aten._to_copy, *INDEXING}
ATTENTION = {
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_flash_attention_forward", "_efficient_attention_forward",
    "_cudnn_attention_forward", "_varlen_attn", "_varlen_attn_out",
}  # fmt: skip


def is_here(device: torch.device | str | None) -> bool:
    """Whether a factory makes its tensor on the pretended device; C++ calls it meta."""
    return device is not None and torch.device(device).type in (CUDA.type, META.type)


@cache
def _written_arguments(func: Any) -> list[tuple[int, str]]:
    """Number and name of the arguments that an operation writes to."""
    arguments = enumerate(func._schema.arguments)
    return [(i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write]


def written_by(func: Any, args: Any, kwargs: Any) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in _written_arguments(func)]


def mapped(function: Callable[[Any], Any], tree: Any) -> Any:
    """Nested tuples, lists and dictionaries with another leaf for each.

    PyTorch's `tree_map` does the same, but would take most of the time of a pass.
    """
    if type(tree) is tuple or type(tree) is list:
        return type(tree)([mapped(function, part) for part in tree])
    if type(tree) is dict:
        return {name: mapped(function, part) for name, part in tree.items()}
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    if type(tree) is tuple or type(tree) is list:
        return [leaf for part in tree for leaf in leaves(part)]
    if type(tree) is dict:
        return [leaf for part in tree.values() for leaf in leaves(part)]
    return [tree]


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by the flash kernel; one that took a mask too would keep no more than that."""
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, scale=scale
    )[0]
    return attended


# ---- rules


def _read_number(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    device.wait("item")
    if device.memory.values(args[0].meta) is None and args[0].dtype.is_floating_point:
        return 1.0
    return func(device.known(args[0], "item"))


def _to_copy(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    source, target, non_blocking = args[0], kwargs.get("device"), bool(kwargs.get("non_blocking"))
    if not isinstance(source, PretendedTensor):
        device.count_copy(source, "to the device", non_blocking=non_blocking)
        kept = {name: kwargs[name] for name in ("dtype", "memory_format") if kwargs.get(name) is not None}
        return device.place(func(source, **kept))
    if target is None or is_here(target):
        return device.run(func, args, kwargs)
    if not non_blocking:
        device.wait(f"to the host {tuple(source.shape)}")
    values = device.memory.values(source.meta)
    copied = torch.zeros(source.shape, dtype=source.dtype) if values is None else values
    return func(copied, **{**kwargs, "non_blocking": False})


def _copy_(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    target, source, *rest = args
    non_blocking = bool(rest[0] if rest else kwargs.get("non_blocking"))
    if isinstance(target, PretendedTensor) and isinstance(source, PretendedTensor):
        return device.run(func, args, kwargs)
    if isinstance(target, PretendedTensor):
        device.count_copy(source, "copy_ to the device", non_blocking=non_blocking)
        device.count("copy_")
        into = device.memory.values(target.meta)
        if into is not None and device.graph is not None:
            device.graph.record(device.memory, [], lambda: [into.copy_(source)])
        elif into is not None:
            into.copy_(source)
        return target
    if not non_blocking:
        device.wait(f"copy_ to the host {tuple(target.shape)}")
    values = device.memory.values(source.meta)
    if values is not None:
        target.copy_(values)
    return target


def _index(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """A boolean index is turned into integers first, whose number the host has to know."""
    target, indices, *rest = args
    name = func.overloadpacket.__name__
    if len(indices) == 1 and _is_mask(indices[0]) and rest and getattr(rest[0], "is_number", rest[0].numel() == 1):
        # `x[mask] = number` is done by `masked_fill_`, for which nobody waits.
        mask = indices[0]
        for _ in range(target.dim() - mask.dim()):
            mask = device.run(aten.unsqueeze.default, (mask, -1), {})
        return device.run(aten.masked_fill_.Tensor, (target, mask, rest[0]), {})
    integers: list[Any] = []
    for index in indices:
        if index is None or (isinstance(index, PretendedTensor) and not _is_mask(index)):
            integers.append(index)
        elif isinstance(index, PretendedTensor):
            device.wait(f"boolean {name}")
            device.count("nonzero")
            integers += [device.place(part) for part in device.known(index, name).nonzero(as_tuple=True)]
        else:
            device.count_copy(index, f"{name} by", non_blocking=False)
            if index.device == META:  # C++ made it of a list, whose numbers are lost on a meta device
                device.memory.add(index)
                integers.append(PretendedTensor(index))
                continue
            parts = index.nonzero(as_tuple=True) if index.dtype == torch.bool else [index]
            integers += [device.place(part) for part in parts]
    return device.run(func, (target, integers, *rest), kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, PretendedTensor) and index.dtype == torch.bool


def _number(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """What Python assigns to a part of a tensor; on CUDA it is an argument of the kernel that fills the part."""
    number = device.run(func, args, kwargs)
    if device.graph is None:
        device.account.kernels["scalar_tensor"] -= 1
    number.is_number = True
    return number


def _data_dependent(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """How large the result is depends on values, which the host therefore waits for."""
    name = func.overloadpacket.__name__
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
        return device.run(func, args, kwargs)
    device.wait(name)
    device.count(name)
    values = mapped(lambda leaf: device.known(leaf, name) if isinstance(leaf, PretendedTensor) else leaf, args)
    found = func(*values, **kwargs)
    return mapped(lambda leaf: device.place(leaf) if isinstance(leaf, Tensor) else leaf, found)


def _draw(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """Tokens that logits decide are taken from `PretendedDevice.sample`."""
    drawn = device.run(func, args, kwargs)
    if device.memory.values(drawn.meta) is None:
        if device.graph is None:
            device.memory.set_values(drawn.meta, device.sample(drawn.shape))
        else:
            device.graph.record(device.memory, [drawn.meta], lambda: [device.sample(drawn.shape)])
    return drawn


RULES: dict[Any, Rule] = {
    aten._local_scalar_dense: _read_number,
    aten._to_copy: _to_copy,
    aten.copy_: _copy_,
    aten.scalar_tensor: _number,
    **dict.fromkeys(INDEXING, _index),
    **dict.fromkeys(
        (
            aten.nonzero, aten.unique_consecutive, aten._unique2, aten.unique_dim, aten.masked_select, aten.equal,
            aten.repeat_interleave, aten.bincount,
        ),
        _data_dependent,
    ),
    **dict.fromkeys((aten.searchsorted, aten.argmax, aten.multinomial), _draw),
}  # fmt: skip
