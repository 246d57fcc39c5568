"""What a GRPO step logs: rewards, advantages, completions and the policy, over all ranks; and a warning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from avrt.algorithms.groups import GroupQueue, Rollout
from avrt.algorithms.grpo import GRPOOptions, GRPOStep
from avrt.distributed import all_reduce_sum, gather_rows

PATIENCE = 10
"""After how many batches without a single unequal reward a run warns."""


def rollout_metrics(step: GRPOStep, queue: GroupQueue | None) -> dict[str, float]:
    """Means over all valid groups of all ranks, by the name they are logged under.

    Args:
        step: This rank's groups, and how long each phase of the step took here.
        queue: Its waiting groups, under dynamic sampling.
    """
    rollout, seconds = step.rollout, step.seconds
    valid, size = rollout.batch.valid, rollout.advantages.shape[1]
    device = valid.device
    lengths = torch.tensor([len(c.token_ids) for c in rollout.completions], device=device)
    cut_off = torch.tensor([not c.finished for c in rollout.completions], device=device)
    empty = torch.tensor([not text.strip() for text in rollout.texts], device=device)
    each = valid.repeat_interleave(size)
    totals: dict[str, Tensor | float] = {
        "groups": valid.sum(),
        "zero_std": (rollout.zero_std & valid).sum(),
        "spread": (rollout.rewards["total"].std(dim=1, correction=0) * valid).sum(),
        "advantages": (rollout.advantages.square().mean(dim=1) * valid).sum(),
        "length": (lengths * each).sum(),
        "cut_off": (cut_off & each).sum(),
        "empty": (empty & each).sum(),
        "skipped": len(rollout.batch.skipped),
        "waiting": 0 if queue is None else len(queue),
        "discarded": 0 if queue is None else queue.discarded,
    }
    for name, values in rollout.rewards.items():
        totals[f"reward/{name}"] = (values.mean(dim=1) * valid).sum()
        totals[f"square/{name}"] = (values.square().mean(dim=1) * valid).sum()
    sums = all_reduce_sum(totals, device)
    groups = max(1.0, sums["groups"])
    completions = groups * size
    metrics: dict[str, float] = {}
    for name in rollout.rewards:
        mean = sums[f"reward/{name}"] / groups
        metrics[f"rewards/{name}/mean"] = mean
        metrics[f"rewards/{name}/std"] = max(0.0, sums[f"square/{name}"] / groups - mean**2) ** 0.5
    metrics["advantage/reward_spread"] = sums["spread"] / groups
    metrics["advantage/rms"] = (sums["advantages"] / groups) ** 0.5
    metrics["advantage/zero_std_groups"] = sums["zero_std"] / groups if sums["groups"] else 1.0
    if queue is not None:
        metrics["advantage/waiting_groups"] = sums["waiting"]
        metrics["advantage/discarded_groups"] = sums["discarded"]
    metrics["completions/tokens"] = sums["length"] / completions
    metrics["completions/cut_off"] = sums["cut_off"] / completions
    metrics["completions/empty"] = sums["empty"] / completions
    if step.sampling_seconds:  # completions that a checkpoint had took none
        metrics["completions/tokens_per_second"] = sums["length"] / step.sampling_seconds
    metrics["train/samples"] = sums["groups"]
    metrics["train/samples_per_second"] = sums["groups"] / sum(seconds.values())
    metrics["train/skipped_samples"] = sums["skipped"]
    return metrics | {f"seconds/{phase}": value for phase, value in seconds.items()}


def engine_metrics(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """What `VLLMEngine.metrics` says on each rank, as one: the slowest push, and all restarts.

    A rank that shares an engine and does not talk to it has zeros.
    """
    slowest = max(each, key=lambda mine: mine["rollout/push_seconds"])
    return {**slowest, "rollout/engine_restarts": sum(mine["rollout/engine_restarts"] for mine in each)}


def distributions(rollout: Rollout) -> dict[str, list[float]]:
    """Length and rewards of each completion of all ranks, by their histogram's name; every rank has to call it."""
    size = rollout.advantages.shape[1]
    lengths = torch.tensor([float(len(c.token_ids)) for c in rollout.completions], device=rollout.advantages.device)
    columns = [rollout.batch.valid.repeat_interleave(size).float(), lengths]
    columns += [values.flatten() for values in rollout.rewards.values()]
    rows = gather_rows(torch.stack(columns, dim=1)).cpu()
    tokens, *rewards = rows[rows[:, 0] > 0, 1:].T.tolist()
    each = {f"rewards/{name}/each": values for name, values in zip(rollout.rewards, rewards, strict=True)}
    return {"completions/tokens_each": tokens, **each}


def update_metrics(measured: dict[str, Tensor], options: GRPOOptions) -> dict[str, float]:
    """Means over the completions that were learned from, over all iterations and ranks."""
    sums = all_reduce_sum(measured, measured["loss"].device)
    learned = max(1.0, sums["completions"]) * options.num_iterations
    metrics = {
        "train/loss": sums["loss"] / options.num_iterations,
        "policy/kl": sums["kl"] / learned,
        "policy/clip_fraction": sums["clipped"] / learned,
        "policy/ratio": sums["ratio"] / learned,
        "policy/entropy": sums["entropy"] / learned,
        "policy/sampler_mismatch": sums["mismatch"] / learned,
    }
    if options.router_loss:
        metrics["train/router_loss"] = sums["router_loss"] / options.num_iterations
    if options.rollout_ahead:  # counted in updates, each of which is some optimizer steps
        metrics["rollout/staleness"] = sums["staleness"] / learned * options.num_iterations
    if options.loss.importance_sampling_cap:
        metrics["policy/importance"] = sums["importance"] / learned
    return metrics


class NoSignalWarning:
    """Warns after `PATIENCE` batches in a row, and each time as many more, in which no group has unequal rewards."""

    def __init__(self) -> None:
        self._batches = 0

    def note(self, all_equal: bool, mean: float) -> None:
        """Count a batch.

        Args:
            all_equal: Whether no group has unequal rewards.
            mean: Mean reward.
        """
        self._batches = self._batches + 1 if all_equal else 0
        if self._batches and self._batches % PATIENCE == 0:
            rank_zero_warn(
                f"NOTHING IS LEARNED FROM REWARDS: in the last {self._batches} batches all completions of a "
                f"question got the same reward (mean {mean:g}), so that every advantage is 0. Look at the completions "
                "in the logs (rollouts); a student that never answers in the format needs SFT first, and "
                "completions that are all cut off need a larger model.rollout.max_new_tokens"
            )
