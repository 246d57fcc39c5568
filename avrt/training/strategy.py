"""DeepSpeed as Lightning's strategy, on GPUs and on the CPU alike, so that laptops run the path of an H100 box."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from avrt.errors import AvrtError
from avrt.training.compilers import check_compilers, interpreter_on_path
from avrt.training.deepspeed_internals import (
    check_whole,
    gathered,
    gathered_to_read,
    import_deepspeed,
    import_deferred,
    keep_on_nodes,
    load_universal,
    make_universal,
    mark_complete,
    save_parts,
)
from avrt.training.lightning_internals import start_cpu_processes
from avrt.training.nodes import OnNodes
from avrt.training.on_cpu import use_cpu
from avrt.training.quiet import chatter_left_out


class OmniDeepSpeedStrategy(OnNodes, DeepSpeedStrategy):
    """ZeRO with the settings that a student with frozen towers wants.

    Checkpoints hold the trained parameters alone: the frozen ones come from the student's source again. Where nothing
    is trained, stages 1 and 2 have nothing to partition, and `avrt.training.evaluation_strategy` takes a plain strategy
    instead; stage 3 stays, for a student that is too large for one device.

    Args:
        stage: ZeRO stage: 1 partitions optimizer states, 2 gradients too, 3 parameters too.
        offload_optimizer: Keep optimizer states in CPU memory and update there.
        offload_parameters: Keep parameters in CPU memory (stage 3).
        gradient_clip_norm: Clip the global gradient norm; 0 does not.
        reduce_bucket_size: Gradient elements reduced at a time.
        allgather_bucket_size: Parameter elements gathered at a time.
        overlap_comm: Reduce gradients while the backward pass goes on.
        pin_memory: Keep what is offloaded in page-locked memory, so that copies are fast and do not wait; without a GPU
            it does nothing.
        gather_for_generation: Under stage 3, gather the decoder's weights once for all completions of a batch, not once
            for every token. Each rank holds them whole meanwhile, 2 bytes per weight; false where that is too much.
        patience_minutes: On several nodes, how long a node waits for the others to come.
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
        pin_memory: bool = True,
        gather_for_generation: bool = True,
        patience_minutes: float = 10.0,
    ) -> None:
        with import_deferred():  # whoever only looks at the settings needs no DeepSpeed
            super().__init__(
                stage=stage,
                offload_optimizer=offload_optimizer,
                offload_parameters=offload_parameters,
                reduce_bucket_size=reduce_bucket_size,
                allgather_bucket_size=allgather_bucket_size,
                overlap_comm=overlap_comm,
                pin_memory=pin_memory,
                exclude_frozen_parameters=True,
                logging_level=logging.ERROR,
            )
        self.gather_for_generation = gather_for_generation
        self.patience_minutes = patience_minutes
        assert isinstance(self.config, dict)
        self.config["gradient_clipping"] = gradient_clip_norm
        # Micro-batches add up in float32. By itself DeepSpeed adds in the weights' type: eight of them in bfloat16
        # are 0.3 % off the sum of their gradients. Read in DeepSpeed 0.19.8, and tested:
        #   stage 2: a flat float32 buffer of this rank's share on the device (4 bytes x trained / ranks, was 2); with
        #     offload it goes to the host once a step, while gradients in bfloat16 went there and back with every
        #     micro-batch. Before, a micro-batch is averaged over the ranks in bfloat16, the type of its gradients.
        #   stage 3: the same share, with offload in host memory.
        #   stage 1 with offload: float32 gradients of all that is trained on each device (4 bytes x trained, was 2),
        #     rounded to bfloat16 once, for the reduction at the end of the step. Without: see `setup`.
        self.config["data_types"] = {"grad_accum_dtype": "fp32"}
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

    def check_compilers(self) -> None:
        """Refuse to train where something that has to be compiled cannot be; see `avrt.training.compilers`."""
        import_deepspeed(logging.ERROR)
        check_compilers(
            offload=self.offloads_optimizer,
            on_cpu=isinstance(self.accelerator, CPUAccelerator),
            alone=self.world_size == 1,
        )

    def setup_environment(self) -> None:
        """Import DeepSpeed and start the processes; the base class would refuse the CPU here."""
        interpreter_on_path()
        import_deepspeed(logging.ERROR)
        if isinstance(self.accelerator, CPUAccelerator):
            use_cpu()
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        """Convert the model and start DeepSpeed.

        Raises:
            AvrtError: For stage 1 in bfloat16 without offload: DeepSpeed has another optimizer for that, which adds our
                micro-batches wrong, and whose checkpoints its own scripts cannot read.
        """
        assert isinstance(self.config, dict)
        stage_1 = self.config["zero_optimization"]["stage"] == 1
        if stage_1 and not self.offloads_optimizer and self.precision_plugin.precision in ("bf16-mixed", "bf16-true"):
            raise AvrtError(
                "1 without offload cannot add gradients in float32 to weights in bfloat16",
                where="trainer.strategy.stage",
                remedy="set --trainer.strategy.stage 2, which takes less memory",
            )
        if not self.files_are_shared:
            keep_on_nodes(self.config)
        super().setup(trainer)

    def start_processes(self) -> None:
        """Start DeepSpeed's communication; the base class would look for GPU indices here."""
        with chatter_left_out():
            if isinstance(self.accelerator, CPUAccelerator):
                start_cpu_processes(self)
            else:
                super().start_processes()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint, which counts as complete only when every process has written its part.

        DeepSpeed marks it when the first one has.
        """
        record = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
        save_parts(self.deepspeed_engine, Path(filepath), record, exclude_frozen=self.exclude_frozen_parameters)
        if self.keeps_files:
            mark_complete(Path(filepath))
        self.barrier("checkpoint marked")

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, also one that another number of processes made."""
        path = self.agreed(checkpoint_path)
        assert self.lightning_module is not None
        fits = self.lightning_module.trainer.state.fn == TrainerFn.FITTING
        if self.num_nodes == 1 or not fits:  # several that train have agreed where each part is
            check_whole(path)
        if fits and self.parts_made(path) not in (None, self.world_size):
            with self.together():
                if self.keeps_files:
                    make_universal(path)
            load_universal(self.deepspeed_engine)
        return super().load_checkpoint(path, weights_only)

    def gather_whole(self, model: nn.Module, kinds: Sequence[type[nn.Module]]) -> None:
        """Have stage 3 gather modules of some kinds as wholes, before it has seen the model."""
        if kinds:
            import_deepspeed(logging.ERROR)
            from deepspeed.utils import set_z3_leaf_modules

            set_z3_leaf_modules(model, list(kinds))

    def whole_weights(self, modules: Sequence[nn.Module]) -> contextlib.AbstractContextManager[None]:
        """A context that all ranks enter together, in which each holds some modules' weights whole (stage 3)."""
        return gathered(self.deepspeed_engine, modules)

    def gathered_to_read(self, modules: Sequence[nn.Module]) -> contextlib.AbstractContextManager[None]:
        """A context that all ranks enter together, in which some modules' weights are whole, to be read (stage 3)."""
        return gathered_to_read(self.deepspeed_engine, modules)

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
