"""CUDA graphs on the pretended device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tests.pretended.tensors import Memory

if TYPE_CHECKING:
    from tests.pretended.device import PretendedDevice


class PretendedGraph:
    """What stands for `torch.cuda.CUDAGraph`: recorded once, launched as one kernel.

    While it is recorded nothing happens to values, and nothing may wait for the device. All memory that the recording
    takes at its peak stays taken as long as the graph exists, since a graph has a pool of its own.

    Attributes:
        steps: Do to known values what was recorded.
    """

    def __init__(self, device: PretendedDevice) -> None:
        self.steps: list[Callable[[], object]] = []
        self._device = device

    @contextlib.contextmanager
    def recording(self, stream: object, capture_error_mode: str) -> Iterator[None]:
        """Record what is run inside, as `torch.cuda.graph` does."""
        assert capture_error_mode == "thread_local"
        device, memory = self._device, self._device.memory
        start, peak = memory.live, memory.peak
        memory.peak = start
        device.graph = self
        try:
            yield
        finally:
            device.graph = None
        pool = memory.peak - memory.live  # beside what is kept of it
        memory.live += pool
        memory.peak = max(peak, memory.peak)
        weakref.finalize(self, memory.release, pool)

    def record(self, memory: Memory, results: Sequence[Tensor], compute: Callable[[], Sequence[Tensor]]) -> None:
        """Record an operation.

        Args:
            memory: The device's.
            results: Meta tensors of what it makes anew; there may be none, where it only writes to its arguments.
            compute: Does it to the values of its arguments, and returns those of its results.
        """
        for meta in results:
            memory.set_values(meta, torch.zeros((), dtype=meta.dtype))
        targets = [memory.values(meta) for meta in results]

        def step() -> None:
            for target, made in zip(targets, compute(), strict=False):
                if target is not None:
                    target.copy_(made)

        self.steps.append(step)

    def replay(self) -> None:
        """Launch it."""
        self._device.count("CUDAGraph.replay")
        for step in self.steps:
            step()
