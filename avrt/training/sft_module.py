"""Supervised fine-tuning on reasoning traces (AVRT stage 1) under Lightning."""

from __future__ import annotations

import time

from avrt.algorithms.sft import sft_step
from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_sum
from avrt.objectives.rewards import RewardOptions
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.optimizers import OptimizerOptions
from avrt.training.training_module import TrainingModule

ON_PROGRESS_BAR = ("train/loss", "train/token_accuracy", "train/tokens_per_second")


class SFTModule(TrainingModule):
    """Fine-tune the student's decoder on traces: AVRT eq. 1, loss on completion tokens only.

    A sample without a trace is learned as its bare answer, unless `data.prompt.missing_trace` refuses it.

    Args:
        student: Which student.
        optimizer: Optimizer and schedule.
        micro_batch_size: Samples per forward and backward pass.
        router_loss: Weight of the load-balancing loss, for a student with experts (0.001
            is what Qwen3-Omni's own configuration has). It is taken over all tokens that
            the decoder reads, within each micro-batch. With LoRA routers stay as they are,
            and the adapters before them learn to spread the tokens. 0 does without.
        generation: How completions are generated in validation, test and prediction.
        rewards: Rewards reported in evaluation.
        vllm: Let vLLM answer in `avrt validate`, `test` and `predict`.
        vllm_in_validation: Let vLLM answer the validation questions while training too. Off, because its numbers are
            close to the policy's but not equal.
    """

    needs_traces = True

    def __init__(
        self,
        student: StudentOptions = StudentOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        micro_batch_size: int = 1,
        generation: SamplingOptions = SamplingOptions(temperature=0.0),
        rewards: RewardOptions = RewardOptions(),
        vllm: VLLMOptions | None = None,
        vllm_in_validation: bool = False,
        router_loss: float = 0.0,
    ) -> None:
        super().__init__(
            student, optimizer, micro_batch_size, generation, rewards, vllm, vllm_in_validation, router_loss
        )

    def training_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """One optimizer step over the batch's micro-batches."""
        started = time.perf_counter()
        step = sft_step(
            self.policy, batch, self.step_optimizer, micro_batch_size=self.micro_batch_size,
            router_loss=self.router_loss,
        )  # fmt: skip
        sums = all_reduce_sum(
            {
                "loss": step.loss,
                "router_loss": step.router_loss,
                "correct": step.correct,
                "tokens": step.tokens,
                "samples": batch.valid.sum(),
                "missing_trace": sum(s.trace is None for s in batch.samples),
                "skipped": len(batch.skipped),
            },
            self.device,
        )
        seconds = time.perf_counter() - started  # reading the sums has waited for the device
        metrics = {
            "train/loss": sums["loss"],
            "train/token_accuracy": sums["correct"] / step.total_targets,
            "train/samples": sums["samples"],
            "train/missing_traces": sums["missing_trace"],
            "train/skipped_samples": sums["skipped"],
            "train/tokens_per_second": sums["tokens"] / seconds,
            "train/samples_per_second": sums["samples"] / seconds,
            "seconds/step": seconds,
        }
        if self.router_loss:
            metrics["train/router_loss"] = sums["router_loss"]
        self.log_values(metrics | self.step_optimizer.metrics() | self.cache_metrics(), on_bar=ON_PROGRESS_BAR)

    def validation_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Loss per completion token under teacher forcing, beside the greedy answers."""
        super().validation_step(batch, batch_idx)
        scores = self.policy.logprobs(self.policy.encode(batch), batch.completion_ids)
        weights = batch.valid[scores.completion_index].float()
        sums = all_reduce_sum({"nll": -(scores.logprobs * weights).sum(), "tokens": weights.sum()}, self.device)
        self._validation_nll += sums["nll"]
        self._validation_tokens += sums["tokens"]

    def on_validation_epoch_start(self) -> None:
        """Start the sums of the validation loss."""
        super().on_validation_epoch_start()
        self._validation_nll = self._validation_tokens = 0.0

    def on_validation_epoch_end(self) -> None:
        """Log the validation loss and the answer metrics."""
        loss = self._validation_nll / max(1.0, self._validation_tokens)
        self.log_values({"val/loss": loss}, on_bar=("val/loss",))
        super().on_validation_epoch_end()
