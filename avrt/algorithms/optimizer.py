"""What a step needs of an optimizer, and the plain one; trainers bring their own."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class StepOptimizer(Protocol):
    """Gradients of a step, micro-batch by micro-batch, and then the step."""

    def zero_grad(self) -> None:
        """Clear the gradients before a step's first micro-batch."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients.

        Args:
            loss: The micro-batch's share of the step's loss; shares add up over micro-batches and ranks.
            last: Whether it is the step's last micro-batch. Every rank has as many.
        """

    def step(self) -> None:
        """Update the weights, and go on in the schedule."""


class PlainOptimizer:
    """A `StepOptimizer` of one process.

    Args:
        optimizer: Any optimizer of PyTorch.
        schedule: Its learning rate schedule, if it has one.
        max_norm: Clip the gradients' global norm; None does not.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
        max_norm: float | None = 1.0,
    ) -> None:
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_norm = max_norm

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients."""
        torch.autograd.backward(loss)

    def step(self) -> None:
        """Update the weights."""
        if self.max_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()


def micro_batches(count: int, size: int) -> list[list[int]]:
    """Row numbers of each micro-batch of `count` rows."""
    return [list(range(i, min(i + size, count))) for i in range(0, count, size)]
