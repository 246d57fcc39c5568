"""The pretended device itself: what each operation of PyTorch means on it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretended.account import Account, caller
from tests.pretended.graphs import PretendedGraph
from tests.pretended.operations import (
    ALLOCATIONS,
    ATTENTION,
    RULES,
    TAKES_HOST_TENSORS,
    fused_attention,
    is_here,
    leaves,
    mapped,
    written_by,
)
from tests.pretended.tensors import LARGEST_VALUES, META, Memory, PretendedTensor

Sampler = Callable[[torch.Size], Tensor]


class DeviceMismatchError(RuntimeError):
    """A tensor of the host and one of the device in the same operation."""


class UnknownValueError(RuntimeError):
    """The program reads what is not known without a GPU."""


class PretendedDevice(TorchDispatchMode):
    """Within it, `cuda` means the pretended device.

    Attributes:
        account: Counts what happens; see `counting`.
        memory: All storages.
        sample: Makes the tokens where the program samples from logits, given their shape; zeros if not set.
        graph: The CUDA graph that is being recorded, if one is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.account = Account()
        self.memory = Memory()
        self.sample: Sampler = lambda shape: torch.zeros(shape, dtype=torch.long)
        self.graph: PretendedGraph | None = None
        self._pinned: set[int] = set()
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> PretendedDevice:
        """Become the device of the process; nothing asks the driver for a real one until the exit."""
        torch._C._ensureCUDADeviceGuardSet()  # as FakeTensorMode does: `cuda` is `cuda:0` without asking the driver
        self._patches.enter_context(mock.patch.object(torch.cuda, "_lazy_init"))
        self._patches.enter_context(mock.patch.object(torch.cuda, "CUDAGraph", partial(PretendedGraph, self)))
        self._patches.enter_context(mock.patch.object(torch.cuda, "graph", PretendedGraph.recording))
        self._patches.enter_context(mock.patch.object(torch.cuda, "Stream"))
        self._patches.enter_context(mock.patch.object(torch.cuda, "device", contextlib.nullcontext))
        self._patches.enter_context(mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0)))
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
        tensors = [leaf for leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        here = any(isinstance(tensor, PretendedTensor) for tensor in tensors)
        if not here and not is_here(kwargs.get("device")):
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

        result = func(*mapped(to_meta, args), **mapped(to_meta, kwargs))
        written = [leaf.meta for leaf in leaves(written_by(func, args, kwargs)) if isinstance(leaf, PretendedTensor)]
        results = [leaf for leaf in leaves(result) if isinstance(leaf, Tensor)]
        fresh = [leaf for leaf in results if self.memory.add(leaf)]
        packet = func.overloadpacket
        if packet not in ALLOCATIONS and (fresh or written):  # else it is a view
            self.count(packet.__name__)
        if packet in ALLOCATIONS:
            for leaf in fresh:
                self.memory.set_values(leaf, torch.zeros((), dtype=leaf.dtype))
        elif written or (fresh and all(leaf.numel() <= LARGEST_VALUES for leaf in results)):
            self._follow_values(func, args, kwargs, written, results if fresh else [])

        def wrap(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return wrapped[id(leaf)] if id(leaf) in wrapped else PretendedTensor(leaf)

        return mapped(wrap, result)

    def count(self, name: str) -> None:
        """One kernel more, unless it is only being recorded."""
        if self.graph is not None:
            return
        self.account.kernels[name] += 1
        if name in ATTENTION:
            self.account.attention[name] += 1

    def wait(self, what: str) -> None:
        """The host waits for the device.

        Raises:
            RuntimeError: If a graph is being recorded, as CUDA does.
        """
        self._refuse_while_recording(what)
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
        self.memory.set_values(meta, values)
        return PretendedTensor(meta)

    def count_copy(self, source: Tensor, what: str, *, non_blocking: bool) -> None:
        """A copy from the host, which waits unless it is asked not to and can do without; of nothing there is none."""
        if not source.numel():
            return
        if not (non_blocking and source.untyped_storage()._cdata in self._pinned):
            self._refuse_while_recording(what)
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

        values = mapped(to_values, args), mapped(to_values, kwargs)
        if unknown:
            for meta in written:
                self.memory.forget(meta)
            return
        options = {**values[1], **({"device": "cpu"} if "device" in kwargs else {})}

        def results_again() -> list[Tensor]:
            return [leaf for leaf in leaves(func(*values[0], **options)) if isinstance(leaf, Tensor)]

        if self.graph is None:
            for meta, made in zip(results, results_again(), strict=False):
                self.memory.set_values(meta, made)
        else:
            self.graph.record(self.memory, results, results_again)

    def _refuse_while_recording(self, what: str) -> None:
        if self.graph is not None:
            raise RuntimeError(f"{what}: not permitted while a CUDA graph is recorded, at {caller()}")

    def _on_host(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation on the host, for real; but there is no driver that could pin memory."""
        if func.overloadpacket is torch.ops.aten.is_pinned:
            return args[0].untyped_storage()._cdata in self._pinned
        if func.overloadpacket is torch.ops.aten._pin_memory:
            return self._pin(args[0].clone())
        if kwargs.get("pin_memory"):
            return self._pin(func(*args, **{**kwargs, "pin_memory": False}))
        return func(*args, **kwargs)

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned.add(storage._cdata)
        weakref.finalize(storage, self._pinned.discard, storage._cdata)
        return tensor
