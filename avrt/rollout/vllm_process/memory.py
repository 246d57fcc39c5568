"""What trainer and engine agree on about memory that both map; imports nothing of this project."""

from __future__ import annotations

import mmap

import torch

NAME = "avrt-weights"
"""What a block on the host is called by the system."""
HOST_DATA = mmap.PAGESIZE
"""Where the data of a block on the host begins, behind its token."""
DEVICE_DATA = 256
"""Where the data of a block on a GPU begins, behind its token."""


def device_uuid(index: int) -> str:
    """What a GPU is called, whatever its number is among those that a process sees."""
    return str(torch.cuda.get_device_properties(index).uuid)


def pin(data: torch.Tensor) -> None:
    """Have a GPU copy from and to host memory (N,) directly, where this process uses a GPU.

    Raises:
        MemoryError: If the system does not let it.
    """
    if _uses_gpu(data):
        status = int(torch.cuda.cudart().cudaHostRegister(data.data_ptr(), len(data), 0))  # type: ignore[no-untyped-call]
        if status:
            raise MemoryError(f"CUDA does not pin {len(data)} bytes of the host's memory: error {status}")


def unpin(data: torch.Tensor) -> None:
    """Undo `pin`, which has to come before the memory goes."""
    if _uses_gpu(data) and data.is_pinned():
        torch.cuda.cudart().cudaHostUnregister(data.data_ptr())  # type: ignore[no-untyped-call]


def _uses_gpu(data: torch.Tensor) -> bool:
    return len(data) > 0 and torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
