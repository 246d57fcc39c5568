"""Supervised fine-tuning on reasoning traces (AVRT stage 1)."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.models.scoring import response_states
from avrt.objectives.rewards import RewardOptions
from avrt.objectives.token_scores import response_loss, score_tokens
from avrt.policy.policy import StudentOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.base import OptimizerOptions, StudentModule


class SFTModule(StudentModule):
    """Fine-tune the student's text model on traces: AVRT eq. 1, loss on response tokens only.

    A sample without a trace is learned as its bare answer, unless `data.prompt.missing_trace` refuses it.

    Args:
        student: Which student.
        optimizer: Optimizer and schedule.
        micro_batch_size: Samples per forward and backward pass.
        generation: How answers are generated in validation, test and prediction.
        rewards: Rewards reported in evaluation.
    """

    needs_traces = True

    def __init__(
        self,
        student: StudentOptions = StudentOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        micro_batch_size: int = 1,
        generation: SamplingOptions = SamplingOptions(temperature=0.0),
        rewards: RewardOptions = RewardOptions(),
    ) -> None:
        super().__init__(student, optimizer, micro_batch_size, generation, rewards)

    def training_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """One optimizer step over the batch's micro-batches."""
        started = time.perf_counter()
        prompts, text = self.prompts(batch), self.student.text
        counted = [len(r) * bool(v) for r, v in zip(batch.response_ids, batch.valid, strict=True)]
        total = max(1.0, self.sums({"tokens": float(sum(counted))})["tokens"])
        loss_sum = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)

        def loss(rows: list[int]) -> Tensor:
            nonlocal loss_sum, correct
            states = response_states(
                text, prompts.rows(rows), [batch.response_ids[i] for i in rows], packed=text.supports_packing
            )
            chunks = self.projection_chunks(len(states.targets))
            scores = score_tokens(states.hidden, states.targets, text.lm_head, chunks=chunks)
            weights = batch.valid[rows][states.rows].float()
            share = response_loss(scores.logprobs, weights, total)
            loss_sum = loss_sum + share.detach()
            correct = correct + (scores.correct * weights).sum()
            return share

        self.update(self.micro_rows(len(batch)), loss)
        seconds = time.perf_counter() - started
        prompt_tokens = float(sum(len(p) for p in batch.prompt_ids))
        sums = self.sums(
            {
                "loss": loss_sum,
                "correct": correct,
                "tokens": prompt_tokens + sum(counted),
                "samples": batch.valid.sum(),
                "missing_trace": sum(s.trace is None for s in batch.samples),
                "skipped": len(batch.skipped),
            }
        )
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        self.log("train/loss", sums["loss"], prog_bar=True)
        self.log("train/token_accuracy", sums["correct"] / total, prog_bar=True)
        self.log("train/lr", schedule.get_last_lr()[0])
        self.log("train/tokens_per_second", sums["tokens"] / seconds, prog_bar=True)
        self.log("train/samples", sums["samples"])
        self.log("train/untraced_samples", sums["missing_trace"])
        self.log("train/skipped_samples", sums["skipped"])

    def validation_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Loss per response token under teacher forcing, beside the greedy answers."""
        super().validation_step(batch, batch_idx)
        prompts, text = self.prompts(batch), self.student.text
        states = response_states(text, prompts, batch.response_ids, packed=text.supports_packing)
        chunks = self.projection_chunks(len(states.targets))
        scores = score_tokens(states.hidden, states.targets, text.lm_head, chunks=chunks)
        weights = batch.valid[states.rows].float()
        sums = self.sums({"nll": -(scores.logprobs * weights).sum(), "tokens": weights.sum()})
        self._validation_nll += sums["nll"]
        self._validation_tokens += sums["tokens"]

    def on_validation_epoch_start(self) -> None:
        """Start the sums of the validation loss."""
        self._validation_nll = self._validation_tokens = 0.0

    def on_validation_epoch_end(self) -> None:
        """Log the validation loss and the answer metrics."""
        self.log("val/loss", self._validation_nll / max(1.0, self._validation_tokens), prog_bar=True)
        super().on_validation_epoch_end()
