"""Supervised fine-tuning on reasoning traces (AVRT stage 1), from a batch to the optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.algorithms.optimizer import StepOptimizer, micro_batches
from avrt.algorithms.router_balance import RouterBalance
from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_sum
from avrt.objectives.token_scores import completion_loss
from avrt.policy.policy import Policy
from avrt.transfer import tensor_on


@dataclass(frozen=True)
class SFTStep:
    """Sums over the rows of this rank's batch.

    Attributes:
        loss: This rank's share of the step's loss.
        correct: Number of target tokens that were the most likely ones.
        tokens: Number of prompt and target tokens that were read.
        total_targets: Number of target tokens over all ranks.
        router_loss: This rank's share of the router loss, which is not in `loss`; 0 where there is none.
    """

    loss: Tensor
    correct: Tensor
    tokens: int
    total_targets: float
    router_loss: Tensor


def sft_step(
    policy: Policy, batch: OmniBatch, optimizer: StepOptimizer, *, micro_batch_size: int = 1, router_loss: float = 0.0
) -> SFTStep:
    """One optimizer step on the response-only cross-entropy of AVRT eq. 1.

    Every target token of the step weighs alike, for any number of micro-batches and ranks.

    Args:
        policy: The student.
        batch: B samples with `completion_ids`; rows that are not `valid` count for nothing.
        optimizer: Takes the gradients and the step.
        micro_batch_size: Samples per forward and backward pass.
        router_loss: Weight of the load-balancing loss, of a student with experts.
    """
    prompts = policy.encode(batch)
    valid = batch.valid.tolist()
    targets = [len(ids) * counts for ids, counts in zip(batch.completion_ids, valid, strict=True)]
    total = max(1.0, all_reduce_sum({"targets": float(sum(targets))}, batch.valid.device)["targets"])
    loss_sum = correct = torch.zeros((), device=batch.valid.device)

    parts = micro_batches(len(batch), micro_batch_size)
    read = [
        ([prompts.lengths[r] for r in rows], [len(batch.completion_ids[r]) for r in rows], [valid[r] for r in rows])
        for rows in parts
    ]
    balance = RouterBalance(router_loss, read, batch.valid.device)
    optimizer.zero_grad()
    for i, rows in enumerate(parts):
        completions = [batch.completion_ids[row] for row in rows]
        scores = policy.logprobs(prompts.rows(rows), completions, balanced=balance.counted(i))
        weights = tensor_on([float(valid[row]) for row in rows], batch.valid.device)[scores.completion_index]
        loss = completion_loss(scores.logprobs, weights, total)
        optimizer.backward(balance.added(loss, scores, i), last=i + 1 == len(parts))
        loss_sum = loss_sum + loss.detach()
        correct = correct + (scores.correct * weights).sum()
    optimizer.step()
    tokens = sum(prompts.lengths) + sum(targets)
    return SFTStep(loss_sum, correct, tokens, total, balance.value)
