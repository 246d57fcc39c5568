"""DeepSpeed as Lightning's strategy, on GPUs and on the CPU alike, so that laptops run the path of an H100 box."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn

from avrt.training.deepspeed_internals import load_universal, made_by, make_universal
from avrt.training.lightning_internals import start_cpu_processes


class OmniDeepSpeedStrategy(DeepSpeedStrategy):
    """ZeRO with the settings that a student with frozen towers wants.

    Checkpoints hold the trained parameters alone: the frozen ones come from the student's source again.

    Args:
        stage: ZeRO stage: 1 partitions optimizer states, 2 gradients too, 3 parameters too.
        offload_optimizer: Keep optimizer states in CPU memory and update there.
        offload_parameters: Keep parameters in CPU memory (stage 3).
        gradient_clip_norm: Clip the global gradient norm; 0 does not.
        reduce_bucket_size: Gradient elements reduced at a time.
        allgather_bucket_size: Parameter elements gathered at a time.
        overlap_comm: Reduce gradients while the backward pass goes on.
    """

    def __init__(
        self,
        stage: int = 2,
        offload_optimizer: bool = True,
        offload_parameters: bool = False,
        gradient_clip_norm: float = 1.0,
        reduce_bucket_size: int = 50_000_000,
        allgather_bucket_size: int = 50_000_000,
        overlap_comm: bool = True,
    ) -> None:
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            reduce_bucket_size=reduce_bucket_size,
            allgather_bucket_size=allgather_bucket_size,
            overlap_comm=overlap_comm,
            exclude_frozen_parameters=True,
            logging_level=logging.ERROR,
        )
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = gradient_clip_norm
        # Only DeepSpeed's own throughput log reads it; `auto` would open the training data too early.
        self.config["train_micro_batch_size_per_gpu"] = 1

    @property
    def offloads_optimizer(self) -> bool:
        """Whether the optimizer has to run on the CPU."""
        assert isinstance(self.config, dict)
        return bool(self.config["zero_optimization"].get("offload_optimizer"))

    @property
    def root_device(self) -> torch.device:
        """This process's device, with an index also on the CPU, where DeepSpeed wants one."""
        device = super().root_device
        return torch.device("cpu", self.local_rank) if device.type == "cpu" else device

    def setup_environment(self) -> None:
        """Start the processes; the base class would refuse the CPU here."""
        if isinstance(self.accelerator, CPUAccelerator):
            use_cpu()
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        """Start communication; the base class would look for GPU indices here."""
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        start_cpu_processes(self)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, also one that another number of processes made."""
        path = Path(checkpoint_path)
        assert self.lightning_module is not None
        fits = self.lightning_module.trainer.state.fn == TrainerFn.FITTING
        if fits and made_by(path) not in (None, self.world_size):
            if self.is_global_zero:
                make_universal(path)
            self.barrier("universal checkpoint")
            load_universal(self.deepspeed_engine)
        return super().load_checkpoint(checkpoint_path, weights_only)

    def optimizer(self, parameters: Any, **settings: Any) -> torch.optim.Optimizer:
        """AdamW where the optimizer states live.

        Args:
            parameters: What to train.
            **settings: lr, betas, eps and weight_decay.
        """
        if not self.offloads_optimizer:
            return torch.optim.AdamW(parameters, **settings)
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        optimizer: torch.optim.Optimizer = DeepSpeedCPUAdam(parameters, adamw_mode=True, **settings)
        return optimizer


def use_cpu() -> None:
    """Make DeepSpeed run on the CPU, also where it has found a GPU, and PyTorch with OMP_NUM_THREADS threads or one.

    More threads make the small matrices of a nano student slower, not faster.
    """
    from deepspeed.accelerator import get_accelerator, set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or 1))
    if get_accelerator().device_name() != "cpu":
        set_accelerator(CPU_Accelerator())
