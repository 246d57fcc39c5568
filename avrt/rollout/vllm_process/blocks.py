"""Memory of the trainer that the engine's process opens, so that weights need not travel: on the host, or on a GPU.

Runs in the engine's own Python environment, so it imports nothing of this project. A block is opened from numbers and
bytes, of which none is executed, and begins with a token, so that another process' memory is never taken for it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import torch
from memory import NAME, device_uuid, pin, unpin  # type: ignore[import-not-found]  # the files beside this one
from wire import byte_size, tensor_at  # type: ignore[import-not-found]


class HostBlock:
    """A block of the trainer's memory on the same machine.

    Args:
        said: The trainer's `pid`, the number `fd` of the block among its files, and the `token`.

    Raises:
        ValueError: If there is no such block here.
        OSError: If it cannot be opened.
    """

    def __init__(self, said: dict[str, Any]) -> None:
        path = f"/proc/{int(said['pid'])}/fd/{int(said['fd'])}"
        if not os.readlink(path).startswith(f"/memfd:{NAME}"):
            raise ValueError("the trainer's block is not on this machine")
        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._bytes = torch.empty(0, dtype=torch.uint8)
        token = bytes.fromhex(said["token"])
        if len(token) < 16 or os.pread(self._file, len(token), 0) != token:
            self.close()
            raise ValueError("the trainer's block is not on this machine")

    def tensors(self, table: list[Any]) -> dict[str, torch.Tensor]:
        """Views of it, to be read before the trainer writes again: name, dtype, shape, place."""
        size = os.fstat(self._file).st_size
        if size != len(self._bytes):
            self._unmap()
            self._bytes = torch.frombuffer(mmap.mmap(self._file, size), dtype=torch.uint8)
            try:
                pin(self._bytes)
            except MemoryError as error:
                raise MemoryError(f"{error}; set model.vllm.transfer: socket") from None
        return {str(name): tensor_at(self._bytes, dtype, shape, offset) for name, dtype, shape, offset in table}

    def close(self) -> None:
        """Give it back; views of it must not be used any more."""
        self._unmap()
        os.close(self._file)

    def _unmap(self) -> None:
        unpin(self._bytes)
        self._bytes = torch.empty(0, dtype=torch.uint8)


class DeviceBlock:
    """A block of the trainer's memory on the same GPU.

    Args:
        said: The GPU's `uuid`, the `token` and the `handle` of PyTorch's storage.

    Raises:
        ValueError: If the engine does not see that GPU, or the block is another.
        RuntimeError: If CUDA does not open it.
    """

    def __init__(self, said: dict[str, Any]) -> None:
        index = gpu_index(said["uuid"])
        torch.cuda.init()  # type: ignore[no-untyped-call]
        handle = said["handle"]
        storage = torch.UntypedStorage._new_shared_cuda(
            index, bytes.fromhex(handle["memory"]), int(handle["size"]), int(handle["offset"]),
            bytes.fromhex(handle["counter"]), int(handle["counter_offset"]),
            bytes.fromhex(handle["event"]), bool(handle["wait"]),
        )  # fmt: skip
        self._bytes = torch.empty(0, dtype=torch.uint8, device=f"cuda:{index}").set_(storage)
        self._begun: dict[str, torch.Tensor] = {}
        token = bytes.fromhex(said["token"])
        if len(token) < 16 or bytes(self._bytes[: len(token)].tolist()) != token:
            raise ValueError("the trainer's block is another")

    def tensors(self, table: list[Any]) -> Iterator[tuple[str, torch.Tensor]]:
        """Copies of what is whole by now: name, dtype, shape, where in the tensor, where in the block, bytes.

        A tensor that the block has no room for comes in pieces, in their order. Once this is through, the trainer may
        write again.
        """
        ready = []
        for name, dtype, shape, start, offset, size in table:
            if not 0 <= offset <= len(self._bytes) - size:
                raise ValueError(f"{size} bytes at {offset} do not lie within {len(self._bytes)}")
            if start == 0:
                whole = torch.empty(byte_size(dtype, shape), dtype=torch.uint8, device=self._bytes.device)
                self._begun[name] = whole
            whole = self._begun[name]
            whole[start : start + size].copy_(self._bytes[offset : offset + size])
            if start + size == len(whole):
                ready.append((str(name), tensor_at(self._begun.pop(name), dtype, shape, 0)))
        torch.cuda.current_stream(self._bytes.device).synchronize()
        yield from ready

    def close(self) -> None:
        """Give it back."""
        self._begun.clear()
        self._bytes = torch.empty(0, dtype=torch.uint8)


def gpu_index(uuid: str) -> int:
    """Number of a GPU among those that this process sees.

    Raises:
        ValueError: If it does not see that one.
    """
    for index in range(torch.cuda.device_count()):
        if device_uuid(index) == uuid:
            return index
    raise ValueError("the engine is not on the trainer's GPU")
