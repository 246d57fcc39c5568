"""Callbacks for runs of the tests: they write down what a policy and its gradients are, and can plant a fault."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from avrt.data.inputs.batch import OmniBatch
from avrt.rollout.sampling import SamplingOptions


class RecordPolicy(pl.Callback):
    """Sample from the policy that the last step left behind, score what it says, and write both down.

    Args:
        path: File for the batch, the completions, their recorded and their scored log-probabilities.
        round_buffers: Round the buffers before the first step, as `bf16-true` does.
    """

    def __init__(self, path: str, round_buffers: bool = False) -> None:
        self.path = Path(path)
        self.round_buffers = round_buffers
        self._batch: OmniBatch

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Plant the fault, behind the guard's back."""
        if self.round_buffers:
            pl_module.policy.model.to(torch.bfloat16)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: OmniBatch, i: int) -> None:
        """Keep the last batch."""
        self._batch = batch

    @torch.no_grad()
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Sample, score, write."""
        policy, batch = pl_module.policy, self._batch
        prompts = policy.encode(batch)
        completions = policy.generate(prompts, SamplingOptions(max_new_tokens=48), seeds=range(len(batch)))
        tokens = [completion.token_ids for completion in completions]
        recorded = torch.cat([completion.logprobs for completion in completions])
        trained = policy.logprobs(prompts, tokens).logprobs
        torch.save({"batch": batch, "tokens": tokens, "recorded": recorded, "trained": trained}, self.path)


class RecordGradients(pl.Callback):
    """Write down the gradients of the first step, as the optimizer gets them, and the batch they come from.

    Args:
        path: File for both.
        accumulate: Another type for `data_types.grad_accum_dtype`; empty for that of the strategy.
    """

    def __init__(self, path: str, accumulate: str = "") -> None:
        self.path = Path(path)
        self.accumulate = accumulate
        self._batch: OmniBatch

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Plant another type of accumulation, before DeepSpeed is given its configuration."""
        if self.accumulate:
            trainer.strategy.config["data_types"] = {"grad_accum_dtype": self.accumulate}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: OmniBatch, batch_idx: int) -> None:
        """Keep the batch."""
        self._batch = batch

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Write."""
        from deepspeed.utils import safe_get_full_grad

        named = pl_module.policy.model.named_parameters()
        gradients = {name: safe_get_full_grad(p).float() for name, p in named if p.requires_grad}
        torch.save({"batch": self._batch, "gradients": gradients}, self.path)


class ScatterAll(pl.Callback):
    """Have ZeRO-3 scatter small weights too; a nano student has hardly others."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Set it, before DeepSpeed is given its configuration."""
        trainer.strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """See that it is so."""
        whole = [name for name, parameter in pl_module.policy.named_parameters() if parameter.ds_persist]
        assert not whole, whole


class RecordGathers(ScatterAll):
    """Count the collectives that gather weights while completions are generated, and say which shares a rank holds.

    Args:
        path: Folder for one JSON file per rank.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.counts: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Watch `generate`."""
        super().on_train_start(trainer, pl_module)
        generate = pl_module.policy.generate

        def watched(*arguments: Any, **settings: Any) -> Any:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                completions = generate(*arguments, **settings)
            self.counts.append(sum("gather" in e.name and e.name.startswith("c10d::") for e in profile.events()))
            return completions

        pl_module.policy.generate = watched

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write."""
        shares = {
            part: sum(p.ds_tensor.numel() for p in getattr(pl_module, part).parameters())
            / sum(p.ds_numel for p in getattr(pl_module, part).parameters())
            for part in ("policy", "reference")
        }
        record = {"gathers": self.counts, "shares": shares}
        (self.path / f"rank{trainer.global_rank}.json").write_text(json.dumps(record))


class SendSignal(pl.Callback):
    """Have a signal sent while a step is at work.

    Args:
        step: After how many steps.
        signal: Its name, such as `KILL`.
        rank: Of the process that it is for; -1 for each.
        group: Send it to every process of that one's group, from outside, as Slurm does.
    """

    def __init__(self, step: int, signal: str, rank: int, group: bool = False) -> None:
        self.step, self.signal, self.rank, self.group = step, signal, rank, group

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: OmniBatch, batch_idx: int) -> None:
        """Send it."""
        self._send(trainer, trainer.global_step)

    def on_test_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Send it before the first batch."""
        self._send(trainer, self.step)

    def _send(self, trainer: pl.Trainer, step: int) -> None:
        if step == self.step and self.rank in (-1, trainer.global_rank):
            whom = -os.getpgrp() if self.group else os.getpid()
            subprocess.run(["/bin/kill", f"-{self.signal}", "--", str(whom)], check=False)
