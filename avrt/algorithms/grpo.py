"""Group relative policy optimization (AVRT stage 2, eq. 2-6), from questions to the optimizer step.

Read from top to bottom: `grpo_step` samples G completions of every question, rewards them, normalizes the rewards
within each group, and updates the policy on the clipped loss with a KL penalty to the reference. In
`avrt.algorithms.rollout_ahead` an engine samples the next batch meanwhile.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch
from torch import Tensor

from avrt.algorithms.groups import Group, GroupQueue, Rollout, Sampled, select_groups
from avrt.algorithms.micro_batch import MicroBatch
from avrt.algorithms.optimizer import StepOptimizer, micro_batches
from avrt.algorithms.router_balance import RouterBalance
from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_sum
from avrt.objectives.advantages import STD_EPSILON, group_advantages
from avrt.objectives.policy_loss import PolicyLoss, StepTotals, sequence_mean
from avrt.objectives.rewards import RewardSum
from avrt.policy.policy import Policy
from avrt.policy.reference import Reference
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions, completion_seeds
from avrt.transfer import tensor_on

METRICS = ("loss", "kl", "clipped", "entropy", "ratio", "mismatch", "importance", "staleness")


@dataclass(frozen=True)
class GRPOOptions:
    """The settings of a step; `avrt.training.grpo_module.GRPOModule` says what each does.

    Attributes:
        group_size: G, completions per question.
        sampling: How completions are drawn.
        loss: Type of the loss, clip range, KL weight and estimator.
        normalize_std: Divide advantages by the group's standard deviation; None does as the loss type does.
        unbiased_std: Divide by G - 1 in that deviation's variance; otherwise by G.
        std_epsilon: Added to the deviation.
        num_iterations: Optimizer steps on each rollout.
        mask_truncated_completions: Leave completions that were cut off out of the loss.
        micro_batch_size: Groups per forward and backward pass.
        rollout_ahead: Batches that an engine samples while the policy learns from an earlier one, 0 or 1.
        router_loss: Weight of the load-balancing loss, of a student with experts.
    """

    group_size: int = 4
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    loss: PolicyLoss = field(default_factory=PolicyLoss)
    normalize_std: bool | None = None
    unbiased_std: bool = True
    std_epsilon: float = STD_EPSILON
    num_iterations: int = 1
    mask_truncated_completions: bool = False
    micro_batch_size: int = 1
    rollout_ahead: int = 0
    router_loss: float = 0.0


@dataclass(frozen=True)
class GRPOStep:
    """What a step did.

    Attributes:
        rollout: The groups that were sampled.
        metrics: Sums over the completions that were learned from, over all iterations, and their number `completions`;
            `loss` and `router_loss`, not in it, are this rank's shares. None if dynamic sampling waits for more groups.
        seconds: Of `rollout`, `reward` and `update`; of `wait` where an engine samples ahead.
        sampling_seconds: From the question to the last completion.
    """

    rollout: Rollout
    metrics: dict[str, Tensor] | None
    seconds: dict[str, float]
    sampling_seconds: float


def grpo_step(
    policy: Policy,
    reference: Reference | None,
    batch: OmniBatch,
    optimizer: StepOptimizer,
    rewards: RewardSum,
    options: GRPOOptions,
    *,
    seed: tuple[int, ...] = (0,),
    queue: GroupQueue | None = None,
) -> GRPOStep:
    """Rollout, rewards, advantages, policy update.

    Args:
        policy: The student.
        reference: The student as it was at first; None only if the KL weight is 0.
        batch: B questions with answers.
        optimizer: Takes gradients and steps.
        rewards: Scores a completion.
        options: The step's settings.
        seed: Together with a sample's id and a completion's number it fixes what is drawn.
        queue: Collects groups until a step is full (dynamic sampling); without it every batch is a step.
    """
    begun = time.perf_counter()
    prompts = policy.encode(batch)
    seeds = completion_seeds((sample.id for sample in batch.samples), options.group_size, *seed)
    completions = policy.generate(prompts, options.sampling, seeds=seeds, group_size=options.group_size)
    seconds = time.perf_counter() - begun
    sampled = Sampled(batch, prompts, completions, {"rollout": seconds}, 0, seconds)
    return learn(policy, reference, sampled, optimizer, rewards, options, queue)


def learn(
    policy: Policy,
    reference: Reference | None,
    sampled: Sampled,
    optimizer: StepOptimizer,
    rewards: RewardSum,
    options: GRPOOptions,
    queue: GroupQueue | None = None,
) -> GRPOStep:
    """The step from the completions on: rewards, advantages, policy update."""
    begun = time.perf_counter()
    rollout = compute_rewards(policy, sampled.batch, sampled.completions, rewards, options)
    groups = select_groups(sampled.prompts, rollout, queue, sampled.staleness)
    rewarded = time.perf_counter()

    metrics = None if groups is None else policy_update(policy, reference, groups, optimizer, options)
    seconds = sampled.seconds | {"reward": rewarded - begun, "update": time.perf_counter() - rewarded}
    return GRPOStep(rollout, metrics, seconds, sampled.sampling_seconds)


def compute_rewards(
    policy: Policy, batch: OmniBatch, completions: list[Completion], rewards: RewardSum, options: GRPOOptions
) -> Rollout:
    """Reward every completion (eq. 3-6) and normalize within groups (eq. 2); padding samples get 0."""
    size, device = options.group_size, batch.valid.device
    texts = policy.decode_all([completion.token_ids for completion in completions])
    asked = zip(batch.samples, batch.clips, batch.valid.tolist(), strict=True)
    scored = [
        rewards(texts[row * size + g], sample, clip) if valid else dict.fromkeys(rewards.names, 0.0)
        for row, (sample, clip, valid) in enumerate(asked)
        for g in range(size)
    ]
    by_name = {
        name: tensor_on([values[name] for values in scored], device).view(len(batch), size) for name in rewards.names
    }
    advantages, zero_std = group_advantages(
        by_name["total"],
        normalize_std=options.loss.normalizes_std if options.normalize_std is None else options.normalize_std,
        unbiased=options.unbiased_std,
        epsilon=options.std_epsilon,
    )
    return Rollout(batch, completions, texts, by_name, advantages, zero_std)


def policy_update(
    policy: Policy, reference: Reference | None, groups: list[Group], optimizer: StepOptimizer, options: GRPOOptions
) -> dict[str, Tensor]:
    """Take the optimizer steps on some groups; returns sums over the completions that count."""
    device = groups[0].advantages.device
    parts = [
        MicroBatch.of([groups[row] for row in rows], device, mask_truncated=options.mask_truncated_completions)
        for rows in micro_batches(len(groups), options.micro_batch_size)
    ]
    lengths = [n for part in parts for n, counts in zip(part.lengths, part.counted, strict=True) if counts]
    sums = all_reduce_sum({"completions": float(len(lengths)), "tokens": float(sum(lengths))}, device)
    totals = StepTotals(max(1.0, sums["completions"]), max(1.0, sums["tokens"]), options.sampling.max_new_tokens)

    referred: list[Tensor | None] = [None] * len(parts)
    if reference is not None and options.loss.beta:  # without a penalty nobody asks it
        with reference.loaded():
            referred = [reference.logprobs(part.prompts, part.tokens).logprobs for part in parts]
    read = [(part.prompts.lengths, part.lengths, part.counted) for part in parts]
    balance = RouterBalance(options.router_loss, read, device)
    decoupled = bool(options.rollout_ahead and options.loss.importance_sampling_cap)
    metrics = {name: torch.zeros((), device=device) for name in METRICS}
    for _ in range(options.num_iterations):
        optimizer.zero_grad()
        for i, part in enumerate(parts):
            scores = policy.logprobs(part.prompts, part.tokens, balanced=balance.counted(i))
            index, count = scores.completion_index, len(part.tokens)
            old, proximal = part.old_logprobs(scores.logprobs, index, decoupled=decoupled)
            token_loss, measured = options.loss(
                scores.logprobs, old, referred[i], part.advantages[index], index, count, part.recorded
            )
            loss = options.loss.average(token_loss, index, part.weights, totals)
            optimizer.backward(balance.added(loss, scores, i), last=i + 1 == len(parts))

            metrics["loss"] += loss.detach()
            scored = proximal if options.rollout_ahead else old
            measured |= {"mismatch": (scored - part.recorded).abs(), "entropy": scores.entropy}
            for name, values in measured.items():
                metrics[name] += (sequence_mean(values, index, count) * part.weights).sum()
            metrics["staleness"] += (part.staleness * part.weights).sum()
        optimizer.step()
    return metrics | {"completions": tensor_on([len(lengths)], device)[0], "router_loss": balance.value}
