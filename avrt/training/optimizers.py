"""AdamW with a cosine schedule, and a Lightning module's optimizer in the form that the algorithms use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from avrt.training.deepspeed_internals import prepare_backward
from avrt.training.strategy import OmniDeepSpeedStrategy


@dataclass(frozen=True)
class OptimizerOptions:
    """AdamW with a cosine schedule; the defaults are the paper's.

    Attributes:
        lr: Peak learning rate.
        betas: Decay rates of the moments.
        eps: Added to the denominator.
        weight_decay: Decoupled weight decay.
        warmup_steps: Optimizer steps of linear warm-up.
        final_lr_share: Share of the peak that the cosine ends at.
    """

    lr: float = 2e-6
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    warmup_steps: int = 100
    final_lr_share: float = 0.0

    def schedule(self, total_steps: int) -> Callable[[int], float]:
        """Factor on the learning rate at each optimizer step."""

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            progress = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
            return self.final_lr_share + (1 - self.final_lr_share) * cosine

        return factor


class ModuleOptimizer:
    """The optimizer of a Lightning module as a `StepOptimizer`, under DeepSpeed or without.

    Args:
        module: A module with manual optimization.
    """

    def __init__(self, module: pl.LightningModule) -> None:
        self._module = module
        self._lrs: list[float] = []
        self._norms: list[Tensor | float] = []

    def zero_grad(self) -> None:
        """Clear the gradients; DeepSpeed's engine does it by itself."""
        if not isinstance(self._module.trainer.strategy, OmniDeepSpeedStrategy):
            self._optimizer.zero_grad()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add a micro-batch's gradients; the loss is multiplied by the number of ranks, which average gradients."""
        strategy = self._module.trainer.strategy
        if isinstance(strategy, OmniDeepSpeedStrategy):
            prepare_backward(strategy.deepspeed_engine, last=last)
        self._module.manual_backward(loss * self._module.trainer.world_size)

    def step(self) -> None:
        """Update the weights and go on in the schedule."""
        self._lrs.append(float(self.schedule.get_last_lr()[0]))
        strategy = self._module.trainer.strategy
        if isinstance(strategy, OmniDeepSpeedStrategy):
            self._optimizer.step()
            norm = strategy.deepspeed_engine.get_global_grad_norm()
        else:
            gradients = [p.grad for p in self._module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self._optimizer.step()
        if norm is not None:  # stage 0 of DeepSpeed does not tell
            self._norms.append(norm)
        self.schedule.step()

    def metrics(self) -> dict[str, float]:
        """What the steps since the last call did: learning rate of the first one, mean norm of the gradients.

        The norm is that of all trained parameters over all ranks, before it is clipped; every rank has the same.
        """
        metrics = {"train/lr": self._lrs[0]}
        if self._norms:
            metrics["train/grad_norm"] = sum(float(norm) for norm in self._norms) / len(self._norms)
        self._lrs, self._norms = [], []
        return metrics

    @property
    def _optimizer(self) -> LightningOptimizer:
        """Lightning's wrapper of the one optimizer, which counts steps."""
        optimizer = self._module.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    @property
    def schedule(self) -> torch.optim.lr_scheduler.LambdaLR:
        """The learning rate schedule."""
        schedule = self._module.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        return schedule
