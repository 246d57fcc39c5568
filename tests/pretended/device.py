"""The pretended device itself: what each operation of PyTorch means on it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.pretended.account import Account, caller
from tests.pretended.tensors import CUDA, META, Memory, PretendedTensor

aten = torch.ops.aten
Sampler = Callable[[torch.Size], Tensor]
Rule = Callable[["PretendedDevice", Any, Any, Any], Any]

LARGEST_VALUES = 1 << 20
"""Tensors of more elements have no values: masks of (T, T), activations."""
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


class DeviceMismatchError(RuntimeError):
    """A tensor of the host and one of the device in the same operation."""


class UnknownValueError(RuntimeError):
    """The program reads what is not known without a GPU."""


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
    """`scaled_dot_product_attention` by the flash kernel; a mask, which another fused kernel would take, costs nothing."""
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, dropout_p, is_causal, scale=scale
    )[0]
    return attended


class PretendedDevice(TorchDispatchMode):
    """Within it, `cuda` means the pretended device.

    Attributes:
        account: Counts what happens; see `counting`.
        memory: All storages.
        sample: Makes the tokens where the program samples from logits, given the shape of what is drawn; zeros at first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.account = Account()
        self.memory = Memory()
        self.sample: Sampler = lambda shape: torch.zeros(shape, dtype=torch.long)
        self._pinned: set[int] = set()
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> PretendedDevice:
        """Become the device of the process; nothing asks the driver for a real one until the exit."""
        torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does: `cuda` is `cuda:0` without asking the driver
        self._patches.enter_context(mock.patch.object(torch.cuda, "_lazy_init", lambda: None))
        self._patches.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        # Then `torch.tensor(list, device="cuda")` makes a tensor of the host and copies it, where the copy can be seen.
        torch._C._set_only_lift_cpu_tensors(True)
        # C++ would take attention apart for a meta tensor; this is where autograd meets it, in recomputation too.
        library = torch.library.Library("aten", "IMPL")
        library.impl("scaled_dot_product_attention", fused_attention, "AutogradMeta")
        self._patches.callback(library._destroy)
        super().__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        """The process has no device again; tensors on it cannot be used any more."""
        super().__exit__(*reason)
        self._patches.close()

    @contextlib.contextmanager
    def counting(self) -> Iterator[Account]:
        """An account of what happens inside; not to be nested."""
        self.account = account = Account(start=self.memory.live)
        self.memory.peak = self.memory.live
        try:
            yield account
        finally:
            account.peak = self.memory.peak - account.start
            account.kept = self.memory.live - account.start
            self.account = Account()

    # ---- dispatch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = any(isinstance(tensor, PretendedTensor) for tensor in tensors)
        if not here and not _is_here(kwargs.get("device")):
            return self._on_host(func, args, kwargs)
        packet = func.overloadpacket
        if here and packet not in TAKES_HOST_TENSORS:
            for tensor in tensors:
                # A number in a tensor of the host is passed to the kernel as an argument.
                if not isinstance(tensor, PretendedTensor) and tensor.dim():
                    raise DeviceMismatchError(f"{func}: a tensor of the host {tuple(tensor.shape)} at {caller()}")
        rule = RULES.get(packet)
        return self.run(func, args, kwargs) if rule is None else rule(self, func, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation like any other: its result's shape, and its values where those of all arguments are known."""
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        if "device" in kwargs:
            kwargs["device"] = META
        wrapped: dict[int, PretendedTensor] = {}

        def to_meta(leaf: Any) -> Any:
            if isinstance(leaf, PretendedTensor):
                wrapped[id(leaf.meta)] = leaf
                return leaf.meta
            return leaf.to(META) if isinstance(leaf, Tensor) and leaf.dim() else leaf

        result = func(*tree_map(to_meta, args), **tree_map(to_meta, kwargs))
        written = [leaf.meta for leaf in tree_leaves(_written(func, args, kwargs)) if isinstance(leaf, PretendedTensor)]
        results = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        fresh = [leaf for leaf in results if self.memory.add(leaf)]
        packet = func.overloadpacket
        if packet not in ALLOCATIONS and (fresh or written):  # else it is a view
            self.count(packet.__name__)
        if packet in ALLOCATIONS:
            for leaf in fresh:
                if leaf.numel() <= LARGEST_VALUES:
                    self.memory.set_values(leaf, torch.zeros(leaf.shape, dtype=leaf.dtype))
        elif written or (fresh and all(leaf.numel() <= LARGEST_VALUES for leaf in results)):
            self._follow_values(func, args, kwargs, written, results if fresh else [])

        def wrap(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return wrapped[id(leaf)] if id(leaf) in wrapped else PretendedTensor(leaf)

        return tree_map(wrap, result)

    def count(self, name: str) -> None:
        """One kernel more."""
        self.account.kernels[name] += 1
        if name in ATTENTION:
            self.account.attention[name] += 1

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        self.account.synchronizations[f"{what} at {caller()}"] += 1

    def known(self, tensor: PretendedTensor, what: str) -> Tensor:
        """The values of a tensor that the program reads.

        Raises:
            UnknownValueError: If there are none.
        """
        values = self.memory.values(tensor.meta)
        if values is None:
            raise UnknownValueError(f"{what} of {tensor}, whose values are not known, at {caller()}")
        return values

    def place(self, values: Tensor) -> PretendedTensor:
        """A tensor of the host on the device, with its values if it is small."""
        meta = torch.empty_like(values, device=META)
        self.memory.add(meta)
        if values.numel() <= LARGEST_VALUES:
            self.memory.set_values(meta, values)
        return PretendedTensor(meta)

    def count_copy(self, source: Tensor, what: str, *, non_blocking: bool) -> None:
        """A copy from the host, which waits unless it is asked not to and can do without."""
        if not (non_blocking and source.untyped_storage()._cdata in self._pinned):
            self.account.blocking_copies[f"{what} {tuple(source.shape)} at {caller()}"] += 1

    # ---- parts

    def _follow_values(
        self, func: Any, args: Any, kwargs: Any, written: Sequence[Tensor], results: Sequence[Tensor]
    ) -> None:
        """Do the same to the values, or forget those that become unknown."""
        unknown = False

        def to_values(leaf: Any) -> Any:
            nonlocal unknown
            if not isinstance(leaf, PretendedTensor):
                return leaf
            values = self.memory.values(leaf.meta)
            unknown = unknown or values is None or values.numel() > LARGEST_VALUES
            return values

        values = tree_map(to_values, args), tree_map(to_values, kwargs)
        if unknown:
            for meta in written:
                self.memory.forget(meta)
            return
        found = func(*values[0], **{**values[1], **({"device": "cpu"} if "device" in kwargs else {})})
        for meta, made in zip(results, [v for v in tree_leaves(found) if isinstance(v, Tensor)], strict=False):
            self.memory.set_values(meta, made)

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation on the host, for real; but there is no driver that could pin memory."""
        if func.overloadpacket is aten.is_pinned:
            return args[0].untyped_storage()._cdata in self._pinned
        if func.overloadpacket is aten._pin_memory:
            return self._pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return self._pin(func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned.add(storage._cdata)
        weakref.finalize(storage, self._pinned.discard, storage._cdata)
        return tensor


def _is_here(device: torch.device | str | None) -> bool:
    """Whether a factory makes its tensor on the pretended device; C++ calls it meta."""
    return device is not None and torch.device(device).type in (CUDA.type, META.type)


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    """The arguments that an operation writes to."""
    names = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    by_name = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    return [by_name.get(name) for name in names]


# ---- operations that are not like any other


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
    if target is None or _is_here(target):
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
        if into is not None:
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
    if len(indices) == 1 and _is_mask(indices[0]) and rest and not isinstance(rest[0], PretendedTensor):
        # `x[mask] = number` is done by `masked_fill_`, for which nobody waits.
        mask = indices[0]
        shape = [*mask.shape, *[1] * (target.dim() - mask.dim())]
        return device.run(
            aten.masked_fill_.Tensor, (target, device.run(aten.view.default, (mask, shape), {}), *rest[:1]), {}
        )
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
            parts = index.nonzero(as_tuple=True) if index.dtype == torch.bool else [index]
            integers += [device.place(part) for part in parts]
    return device.run(func, (target, integers, *rest), kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, PretendedTensor) and index.dtype == torch.bool


def _data_dependent(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """How large the result is depends on values, which the host therefore waits for."""
    name = func.overloadpacket.__name__
    if func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None:
        return device.run(func, args, kwargs)
    device.wait(name)
    device.count(name)
    values = tree_map(lambda leaf: device.known(leaf, name) if isinstance(leaf, PretendedTensor) else leaf, args)
    found = func(*values, **kwargs)
    return tree_map(lambda leaf: device.place(leaf) if isinstance(leaf, Tensor) else leaf, found)


def _draw(device: PretendedDevice, func: Any, args: Any, kwargs: Any) -> Any:
    """Tokens that logits decide are taken from `PretendedDevice.sample`."""
    drawn = device.run(func, args, kwargs)
    if device.memory.values(drawn.meta) is None:
        device.memory.set_values(drawn.meta, device.sample(drawn.shape))
    return drawn


RULES: dict[Any, Rule] = {
    aten._local_scalar_dense: _read_number,
    aten._to_copy: _to_copy,
    aten.copy_: _copy_,
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
