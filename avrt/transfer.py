"""Small tensors on their way to a device, without waiting for it.

A plain `torch.tensor(list, device="cuda")` stops the host until the device has done all that it was given before. From
pinned memory a copy only takes its place in the device's queue.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device; on a GPU it goes through pinned memory and the host does not wait."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def tensor_on(values: Sequence[int] | Sequence[float] | Sequence[bool], device: torch.device) -> Tensor:
    """Numbers that the host knows as a tensor (n,) on a device; an empty one is of integers."""
    return to_device(torch.tensor(values, dtype=None if values else torch.long, device="cpu"), device)
