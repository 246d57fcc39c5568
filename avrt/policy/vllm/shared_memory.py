"""Weights through memory of this machine that trainer and engine both map."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.policy.vllm.process import EngineProcess
from avrt.policy.vllm.weights import WeightTransfer
from avrt.rollout.vllm_process.memory import HOST_DATA, NAME, pin, unpin
from avrt.rollout.vllm_process.wire import aligned, byte_view, dtype_name

PART_BYTES = 1 << 28
"""The block grows by this much, or by a larger tensor, as weights come one by one."""


class SharedMemory(WeightTransfer):
    """One block that holds all weights and is written anew by every push.

    It is a file without a name (`memfd_create`): the system frees it when the last process that maps it has gone,
    however that ends. What was pushed last stays in it, so that an engine that is started again is given exactly that.
    """

    name = "shared_memory"
    holds = True

    def __init__(self) -> None:
        self._file = -1
        self._token = secrets.token_bytes(32)
        self._parts: list[Tensor] = []
        self._used = 0
        self._places: dict[str, tuple[list[Any], Tensor]] = {}
        self._table: list[Any] = []

    def attach(self, process: EngineProcess, device: torch.device) -> str:
        """Have the engine open the block."""
        if not hasattr(os, "memfd_create"):
            return "needs Linux"
        if self._file < 0:
            self._file = os.memfd_create(NAME)
            try:
                os.posix_fallocate(self._file, 0, HOST_DATA)
            except OSError as error:
                return str(error)
            os.pwrite(self._file, self._token, 0)
        return self.offered(process, {"pid": os.getpid(), "fd": self._file, "token": self._token.hex()})

    def push(self, process: EngineProcess, weights: Iterable[tuple[str, Tensor]]) -> int:
        """Write them all, then have the engine read them."""
        self._table, total, devices = [], 0, set()
        for name, tensor in weights:
            entry, place = self._place(name, tensor)
            place.copy_(byte_view(tensor.detach()), non_blocking=True)
            self._table.append(entry)
            total += len(place)
            devices.add(tensor.device)
        for device in devices:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        self.again(process)
        return total

    def again(self, process: EngineProcess) -> bool:
        """Have the engine read what was written last."""
        process.ask({"do": "load", "way": self.name, "table": self._table, "last": True})
        return True

    def close(self) -> None:
        """Free the block, once the engine has let go of it as well."""
        for part in self._parts:
            unpin(part)
        self._parts, self._places, self._table, self._used = [], {}, [], 0
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _place(self, name: str, tensor: Tensor) -> tuple[list[Any], Tensor]:
        """Where a tensor is written: as the engine is told it, and as its bytes (N,)."""
        dtype, shape = dtype_name(tensor), list(tensor.shape)
        found = self._places.get(name)
        if found is None or found[0][1:3] != [dtype, shape]:
            size = tensor.nbytes
            if not self._parts or self._used + size > len(self._parts[-1]):
                self._grow(size)
            begin = os.fstat(self._file).st_size - len(self._parts[-1]) + self._used
            found = [name, dtype, shape, begin], self._parts[-1][self._used : self._used + size]
            self._places[name] = found
            self._used += aligned(size)
        return found

    def _grow(self, size: int) -> None:
        size = -(-max(PART_BYTES, size) // mmap.PAGESIZE) * mmap.PAGESIZE
        begin = os.fstat(self._file).st_size
        try:
            os.posix_fallocate(self._file, begin, size)  # or writing would end this process where memory is short
        except OSError as error:
            raise AvrtError(
                f"no room for the weights in this machine's memory: {error}",
                where="model.vllm.transfer",
                remedy="set it to socket",
            ) from None
        part = torch.frombuffer(mmap.mmap(self._file, size, offset=begin), dtype=torch.uint8)
        try:
            pin(part)
        except MemoryError as error:
            raise AvrtError(str(error), where="model.vllm.transfer", remedy="set it to socket") from None
        self._parts.append(part)
        self._used = 0
