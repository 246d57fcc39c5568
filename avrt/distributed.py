"""What ranks tell each other, over torch.distributed; with a single process each call returns its own value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_reduce_sum(values: Mapping[str, Tensor | float], device: torch.device) -> dict[str, float]:
    """Sums of scalars over all ranks, in one collective."""
    if world_size() == 1:
        return {name: float(value) for name, value in values.items()}
    stacked = torch.tensor([float(v) for v in values.values()], dtype=torch.float64, device=device)
    distributed.all_reduce(stacked, op=distributed.ReduceOp.SUM)
    return dict(zip(values, stacked.tolist(), strict=True))


def all_reduce_min(value: int, device: torch.device) -> int:
    """The smallest of the ranks' numbers."""
    return _all_reduce(value, device, distributed.ReduceOp.MIN)


def all_reduce_max(value: int, device: torch.device) -> int:
    """The largest of the ranks' numbers."""
    return _all_reduce(value, device, distributed.ReduceOp.MAX)


def _all_reduce(value: int, device: torch.device, op: distributed.ReduceOp.RedOpType) -> int:
    if world_size() == 1:
        return value
    reduced = torch.tensor(value, device=device)
    distributed.all_reduce(reduced, op=op)
    return int(reduced)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows (n, ...) of every rank, which has as many, as (ranks * n, ...) on all of them; every rank has to call it."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def gather_objects(value: T) -> list[T]:
    """One value of each rank, in their order, on all of them; every rank has to call it."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value)
    return values
