"""What ranks tell each other besides tensors."""

from __future__ import annotations

from typing import TypeVar

import torch

T = TypeVar("T")


def gather_objects(value: T, ranks: int) -> list[T]:
    """One value of each rank, in their order, on all of them; every rank has to call it."""
    if ranks == 1:
        return [value]
    values: list[T] = [value] * ranks
    torch.distributed.all_gather_object(values, value)
    return values
