"""CUDA graphs on the pretended device."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.pretended.device import PretendedDevice


class PretendedGraph:
    """What stands for `torch.cuda.CUDAGraph`: recorded once, launched as one kernel.

    While it is recorded nothing may wait for the device. All memory that the recording takes at its peak stays taken as
    long as the graph exists, since a graph has a pool of its own.

    Attributes:
        steps: Do again what was done to known values while it was recorded.
    """

    def __init__(self, device: PretendedDevice) -> None:
        self.steps: list[Callable[[], object]] = []
        self._device = device

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is run inside."""
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

    def replay(self) -> None:
        """Launch it."""
        self._device.count("CUDAGraph.replay")
        for step in self.steps:
            step()
