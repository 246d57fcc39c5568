"""What SFT and GRPO modules share: optimizer, schedule, checkpoints; the steps themselves are in `avrt.algorithms`."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.input_settings import InputSettings
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.evaluation_module import EvaluationModule
from avrt.training.input_record import settings_of_run
from avrt.training.optimizers import ModuleOptimizer, OptimizerOptions
from avrt.training.run_log.run_log import RunLog
from avrt.training.run_log.writer import Option
from avrt.training.strategy import OmniDeepSpeedStrategy


class TrainingModule(EvaluationModule):
    """Base of the training modules.

    A batch of the loader is one optimizer step's worth of samples on one rank (under GRPO's dynamic sampling a part of
    it, with `num_iterations` several steps); the algorithm splits it into micro-batches, so that every token of the
    step weighs alike for any number of micro-batches and ranks.

    Args:
        student: Which student.
        optimizer: Optimizer and schedule.
        micro_batch_size: Samples per forward and backward pass.
        generation: How completions are generated in validation, test and prediction; greedy by default.
        rewards: The rewards, also reported in evaluation.
        vllm: Let vLLM sample instead of the native engine.
        vllm_in_validation: Let it answer in validation while training too.
        router_loss: Weight of the load-balancing loss, for a student with experts.

    Attributes:
        run_log: Writes to every logger of the run, while training.
        run_options: The options of the run, which the loggers are given at its start.
    """

    num_iterations = 1
    run_log: RunLog
    resume_data: Callable[[dict[str, Any]], None]
    rewards: RewardSum

    def __init__(
        self,
        student: StudentOptions,
        optimizer: OptimizerOptions,
        micro_batch_size: int,
        generation: SamplingOptions,
        rewards: RewardOptions,
        vllm: VLLMOptions | None = None,
        vllm_in_validation: bool = False,
        router_loss: float = 0.0,
    ) -> None:
        super().__init__(student, generation, rewards, vllm)
        if vllm_in_validation and vllm is None:
            raise AvrtError(
                "there is no engine", where="model.vllm_in_validation", remedy="set model.vllm, or this to false"
            )
        if router_loss < 0:
            raise AvrtError(f"is {router_loss}", where="model.router_loss", remedy="0 does without, 0.001 is usual")
        self.router_loss = router_loss
        self.vllm_in_validation = vllm_in_validation
        self.automatic_optimization = False
        self.optimizer_options = optimizer
        self.step_optimizer = ModuleOptimizer(self)
        self.micro_batch_size = micro_batch_size
        self.batches_per_epoch = 0
        self.samples_per_step = 0
        self.input_settings: InputSettings | None = None
        self.run_options: dict[str, Option] = {}

    def load(self) -> None:
        """Load the policy, refuse a router loss for one without routers, and warn of experts that stay gathered.

        Raises:
            AvrtError: If there are no experts whose use could be balanced.
        """
        super().load()
        experts = self.policy.decoder.experts_per_token is not None
        if experts and self.policy.is_partitioned and not self.student_options.gradient_checkpointing:
            # Their grouped product keeps a view of the gathered weights for its backward pass.
            rank_zero_warn(
                "model.student.gradient_checkpointing: without it ZeRO-3 holds all layers' experts whole until the "
                "backward pass; set it to true for a student that does not fit so"
            )
        if self.router_loss and not experts:
            raise AvrtError(
                f"{self.student_options.source} has no experts to balance",
                where="model.router_loss",
                remedy="set it to 0",
            )

    def connect_data(self, data: AVDataModule, stage: str) -> None:
        """Also the length of an epoch, and how the student is being trained to be asked."""
        super().connect_data(data, stage)
        if stage == "fit":
            self.batches_per_epoch = data.train_plan.steps
            self.samples_per_step = data.train_plan.global_step_size
            self.input_settings = settings_of_run(self, data)

    def setup(self, stage: str) -> None:
        """Refuse what cannot be trained here."""
        super().setup(stage)
        if stage == "fit" and self.student_options.attention == "flex" and self.device.type == "cpu":
            raise AvrtError(
                "FlexAttention cannot be trained on a CPU",
                where="model.student.attention",
                remedy="sdpa gives the same numbers",
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over what is trainable, where the strategy wants it, with linear warm-up and cosine decay."""
        options = self.optimizer_options
        settings: dict[str, Any] = {
            "lr": options.lr, "betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay
        }  # fmt: skip
        parameters = [p for p in self.parameters() if p.requires_grad]
        strategy = self.trainer.strategy
        make = strategy.optimizer if isinstance(strategy, OmniDeepSpeedStrategy) else torch.optim.AdamW
        optimizer = make(parameters, **settings)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, options.schedule(self._total_steps()))]

    def steps_per_epoch(self) -> int:
        """Batches of an epoch, as `limit_train_batches` has it."""
        steps, limit = self.batches_per_epoch, self.trainer.limit_train_batches
        return min(steps, limit) if isinstance(limit, int) else int(steps * (1.0 if limit is None else limit))

    def _total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        epochs = self.trainer.max_epochs if self.trainer.max_epochs and self.trainer.max_epochs > 0 else 1
        total = self.steps_per_epoch() * epochs * self.num_iterations
        return min(total, self.trainer.max_steps) if self.trainer.max_steps > 0 else total

    # ---- what is logged

    def on_fit_start(self) -> None:
        """Open the loggers."""
        super().on_fit_start()
        self.run_log = RunLog(self.trainer)
        if self.run_options:
            self.run_log.options(self.run_options)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Note at which step the batch is measured."""
        self.run_log.begin_batch()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the step's scalars, after those of the callbacks have come."""
        self.run_log.flush()

    def on_validation_start(self) -> None:
        """Note at which step the validation is measured."""
        super().on_validation_start()
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.run_log.begin_validation()

    def on_validation_end(self) -> None:
        """Write the scalars of the validation."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.run_log.flush()

    def log_values(self, values: Mapping[str, float], *, on_bar: Container[str] = ()) -> None:
        """Log scalars; while training at the number of optimizer steps taken when they were measured.

        Lightning would count batches instead, and repeat the values of the last update where a batch brings none.
        """
        if self.trainer.state.fn != TrainerFn.FITTING:
            super().log_values(values, on_bar=on_bar)
            return
        for name, value in values.items():
            self.log(name, value, prog_bar=name in on_bar, logger=False)
        self.run_log.scalars(values)

    def cache_metrics(self) -> dict[str, float]:
        """Which share of features came from the cache, where there is one."""
        if (cache := self.policy.cache) is None:
            return {}
        return {"train/cached_features": cache.hits / max(1, cache.hits + cache.misses)}

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what is needed to put the trained parameters back into a student."""
        checkpoint["student"] = asdict(replace(self.student_options, feature_cache=None))
        checkpoint["trained"] = self._trained_names()
        if self.input_settings is not None:
            checkpoint["input_settings"] = self.input_settings.to_record()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also have a resumed run go on where its training data were left, before Lightning restores its loops."""
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.resume_data(checkpoint)
