"""Group relative policy optimization on question-answer pairs (AVRT stage 2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.distributed import gather_objects
from avrt.errors import AvrtError
from avrt.models.scoring import Prompts, response_states
from avrt.objectives.advantages import STD_EPSILON, group_advantages
from avrt.objectives.policy_loss import PolicyLoss, StepTotals, sequence_mean
from avrt.objectives.rewards import RewardOptions
from avrt.objectives.token_scores import TokenScores, score_tokens
from avrt.policy.policy import Decoder, Reference, StudentOptions
from avrt.rollout.native import Completion
from avrt.rollout.sampling import SamplingOptions, completion_seed
from avrt.rollout.vllm_engine import VLLMEngine, VLLMOptions
from avrt.training.base import OptimizerOptions, StudentModule
from avrt.training.groups import Group, GroupQueue, join_prompts, sampler_logprobs

PATIENCE = 10
"""After how many batches without a single unequal reward a run warns."""
MEASURED = ("loss", "kl", "clipped", "entropy", "ratio", "mismatch", "importance")


@dataclass
class Rollout:
    """Groups of answers to the B prompts of a batch, and what became of them.

    Attributes:
        batch: The questions.
        completions: B * G answers, prompt by prompt.
        texts: Their texts.
        rewards: Name of each reward, and `total` -> (B, G).
        advantages: (B, G).
        equal: (B,) groups whose rewards are equal.
    """

    batch: OmniBatch
    completions: list[Completion]
    texts: list[str]
    rewards: dict[str, Tensor]
    advantages: Tensor
    equal: Tensor


class GRPOModule(StudentModule):
    """Improve the student on its own answers: AVRT eq. 2-6.

    Each step samples `group_size` answers to every question, scores them with the rewards, normalizes within each
    group, and takes `num_iterations` optimizer steps on the clipped objective with a KL penalty to the student it
    started from.

    Args:
        student: Which student; the reference is the same one, frozen.
        optimizer: Optimizer and schedule.
        group_size: G, answers per question.
        rollout: How answers are sampled while training.
        loss: Variant of the loss, clip range, KL weight and estimator.
        rewards: Weights and shapes of the rewards.
        normalize_std: Divide advantages by the group's standard deviation; by default as the objective's variant does.
        unbiased_std: Divide by G - 1 in that deviation's variance, as TRL does; otherwise by G.
        std_epsilon: Added to the deviation, so that next to nothing does not become a large advantage.
        num_iterations: Optimizer steps on each rollout; with 1 the ratio is 1 and nothing is clipped.
        mask_truncated_completions: Leave answers that were cut off out of the loss, so that length alone is not
            punished (overlong filtering of DAPO, arXiv 2503.14476); their rewards still count in their group's mean.
        dynamic_sampling: Leave out groups whose rewards are all equal and sample up to this many batches until each
            step is full of others (DAPO). A batch is then no longer a step; groups that wait for the next one are part
            of checkpoints. 0 switches it off.
        micro_batch_size: Questions, each with its whole group, per forward and backward pass.
        share_prefix: Read a prompt once for its whole group, in sampling and in scoring, instead of once per answer;
            the numbers are the same. Needs the `sdpa` attention.
        vllm: Sample answers by vLLM instead of this project's own engine; not under ZeRO-3, and not with LoRA.
        generation: How answers are generated in validation, test and prediction.
        seed: Seed of the sampled answers.
    """

    needs_answers = True

    def __init__(
        self,
        student: StudentOptions = StudentOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        group_size: int = 4,
        rollout: SamplingOptions = SamplingOptions(),
        loss: PolicyLoss = PolicyLoss(),
        rewards: RewardOptions = RewardOptions(),
        normalize_std: bool | None = None,
        unbiased_std: bool = True,
        std_epsilon: float = STD_EPSILON,
        num_iterations: int = 1,
        mask_truncated_completions: bool = False,
        dynamic_sampling: int = 0,
        micro_batch_size: int = 1,
        share_prefix: bool = True,
        vllm: VLLMOptions | None = None,
        generation: SamplingOptions = SamplingOptions(temperature=0.0),
        seed: int = 0,
    ) -> None:
        super().__init__(student, optimizer, micro_batch_size, generation, rewards)
        if group_size < 2:
            raise ValueError("group_size must be at least 2: an advantage compares answers with each other")
        if std_epsilon < 0:
            raise ValueError("std_epsilon must be at least 0: it is added to a deviation")
        if not rollout.exact:
            rank_zero_warn(
                "model.rollout draws answers from another distribution than the policy's (temperature, top_k, top_p): "
                "the loss takes them for the policy's own, which biases it"
            )
        self.group_size = group_size
        self.rollout_options = rollout
        self.loss = loss
        self.normalize_std = loss.normalizes_std if normalize_std is None else normalize_std
        self.unbiased_std, self.std_epsilon = unbiased_std, std_epsilon
        self.num_iterations = num_iterations
        self.mask_truncated_completions = mask_truncated_completions
        self.share_prefix = share_prefix
        self.seed = seed
        self.reference: Reference | None = None
        self.vllm_options = vllm
        self.vllm: VLLMEngine | None = None
        self.queue = GroupQueue(dynamic_sampling) if dynamic_sampling else None
        self._steps_without_signal = 0

    def setup(self, stage: str) -> None:
        """Load the student, and copy it as the reference before anything changes it."""
        super().setup(stage)
        if stage == "fit" and self.reference is None and self.loss.beta:
            self.reference = self.student.make_reference()
        if stage == "fit" and self.vllm_options is not None and self.vllm is None:
            self.vllm = self._start_vllm(self.vllm_options)

    def _start_vllm(self, options: VLLMOptions) -> VLLMEngine:
        if self.zero3 or self.student_options.lora is not None:
            raise AvrtError(
                "vLLM is given whole weights, which neither ZeRO-3 nor LoRA has",
                where="model.vllm",
                remedy="use ZeRO stage 2 and full weights, or sample without vllm",
            )
        engine = VLLMEngine(options, self.trainer.global_rank)
        try:
            engine.start(self.student)
        except BaseException:
            engine.close()
            raise
        return engine

    def teardown(self, stage: str) -> None:
        """End the vLLM engine, if there is one."""
        super().teardown(stage)
        if self.vllm is not None:
            self.vllm.close()
            self.vllm = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the groups that wait on any rank: only one rank's checkpoint may be kept."""
        super().on_save_checkpoint(checkpoint)
        if self.queue is not None:
            checkpoint["waiting_groups"] = gather_objects(self.queue.state_dict(), self.trainer.world_size)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up this rank's waiting groups, if the run that saved them had groups of the same size."""
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        shares = checkpoint.get("waiting_groups", [])
        sizes = {len(group["completions"]) for share in shares for group in share["groups"]}
        if self.queue is None or sizes - {self.group_size}:
            if sizes:
                rank_zero_warn("the checkpoint's waiting groups cannot be used with these settings: left out")
            return
        self.queue.load_state_dict(shares, self.global_rank, self.trainer.world_size, self.device)

    def max_completion_length(self) -> int:
        """See `StudentModule.max_completion_length`."""
        return max(self.rollout_options.max_new_tokens, self.generation.max_new_tokens)

    def training_step(self, batch: OmniBatch, batch_idx: int) -> dict[str, Any]:
        """Sample, reward, and update."""
        started = time.perf_counter()
        prompts = self.prompts(batch)
        seed = (self.seed, batch.epoch, batch.step)
        if self.vllm is None:
            completions = self.sample_answers(prompts, batch.samples, self.rollout_options, self.group_size, *seed)
        else:
            completions = self._sample_by_vllm(self.vllm, batch, *seed)
        sampled = time.perf_counter()
        rollout = self.judge(batch, completions)
        groups = self.choose(prompts, rollout)
        judged = time.perf_counter()
        measured = None if groups is None else self.learn(groups)
        seconds = {"rollout": sampled - started, "reward": judged - sampled, "update": time.perf_counter() - judged}
        self._log_rollout(rollout, seconds)
        if self.queue is not None:  # Lightning repeats an update's values where a batch brings none
            self.log("train/updated", float(measured is not None))
        if measured is not None:
            self._log_update(measured)
        return {"rollout": rollout}

    def _sample_by_vllm(self, engine: VLLMEngine, batch: OmniBatch, *seed: int) -> list[Completion]:
        """Answers by the other engine, which is given the weights first; they change with every step."""
        engine.push(self.student.text)
        seeds = [completion_seed(*seed, sample.id, g) for sample in batch.samples for g in range(self.group_size)]
        completions = engine.sample(self.student, batch, self.rollout_options, seeds, self.group_size)
        engine.rest()
        return completions

    def choose(self, prompts: Prompts, rollout: Rollout) -> list[Group] | None:
        """The groups to learn from now; None if more are to be sampled first."""
        size = self.group_size
        groups = [
            Group(prompts.rows([b]), rollout.completions[b * size : (b + 1) * size], rollout.advantages[b], valid)
            for b, valid in enumerate(rollout.batch.valid.tolist())
        ]
        if self.queue is None:
            return groups
        self.queue.add(groups, rollout.equal)
        return self.queue.take(len(groups), self.fewest(len(self.queue)), groups[0])

    def judge(self, batch: OmniBatch, completions: list[Completion]) -> Rollout:
        """Reward every answer (eq. 3-6) and normalize within groups (eq. 2)."""
        texts = [self.decode(completion) for completion in completions]
        owners = [sample for sample in batch.samples for _ in range(self.group_size)]
        scored = [self.rewards(text, sample) for text, sample in zip(texts, owners, strict=True)]
        rewards = {
            name: torch.tensor([s[name] for s in scored], device=self.device).view(len(batch), self.group_size)
            for name in scored[0]
        }
        advantages, equal = group_advantages(
            rewards["total"],
            normalize_std=self.normalize_std,
            unbiased=self.unbiased_std,
            epsilon=self.std_epsilon,
        )
        return Rollout(batch, completions, texts, rewards, advantages, equal)

    def learn(self, groups: list[Group]) -> dict[str, Tensor]:
        """Take the optimizer steps on some groups; returns sums over valid answers for the log."""
        size = self.group_size
        completions = [completion for group in groups for completion in group.completions]
        lengths = torch.tensor([len(c.token_ids) for c in completions], device=self.device)
        counted = torch.tensor([g.valid for g in groups], device=self.device).repeat_interleave(size)
        if self.mask_truncated_completions:
            counted = counted & torch.tensor([c.finished for c in completions], device=self.device)
        sums = self.sums({"answers": counted.sum(), "tokens": (lengths * counted).sum()})
        totals = StepTotals(max(1.0, sums["answers"]), max(1.0, sums["tokens"]), self.rollout_options.max_new_tokens)
        first_pass: dict[int, tuple[Tensor, Tensor | None]] = {}
        measured = {name: torch.zeros((), device=self.device) for name in MEASURED}

        def loss(rows: list[int]) -> Tensor:
            answers = [row * size + g for row in rows for g in range(size)]
            mine = [groups[row] for row in rows]
            owners = join_prompts(mine)
            tokens = [completions[i].token_ids for i in answers]
            scores, sequence = self._score(self.student.text, owners, tokens)
            recorded = sampler_logprobs(mine)
            if rows[0] not in first_pass:
                # A fresh group's policy has not changed since it sampled, so these are the old log-probabilities too.
                fresh = torch.tensor([g.fresh for g in mine], device=self.device).repeat_interleave(size)[sequence]
                old = torch.where(fresh, scores.logprobs.detach(), recorded)
                first_pass[rows[0]] = (old, self._reference_logprobs(owners, tokens))
            old, reference = first_pass[rows[0]]
            advantages = torch.cat([group.advantages for group in mine])[sequence]
            count = len(answers)
            token_loss, metrics = self.loss(scores.logprobs, old, reference, advantages, sequence, count, recorded)
            valid = counted[answers].float()
            share = self.loss.average(token_loss, sequence, valid, totals)
            measured["loss"] += share.detach()
            metrics["mismatch"] = (old - recorded).abs()
            for name, values in {**metrics, "entropy": scores.entropy}.items():
                measured[name] += (sequence_mean(values, sequence, count) * valid).sum()
            return share

        for _ in range(self.num_iterations):
            self.update(self.micro_rows(len(groups)), loss)
        measured["learned"] = counted.sum()
        return measured

    def _score(self, text: Decoder, prompts: Prompts, tokens: list[Tensor]) -> tuple[TokenScores, Tensor]:
        states = response_states(text, prompts, tokens, packed=self.share_prefix and text.supports_packing)
        chunks = self.projection_chunks(len(states.targets))
        return score_tokens(states.hidden, states.targets, text.lm_head, chunks=chunks), states.rows

    @torch.no_grad()
    def _reference_logprobs(self, prompts: Prompts, tokens: list[Tensor]) -> Tensor | None:
        if not self.loss.beta:
            return None
        with self.student.reference_policy(self.reference) as text:
            return self._score(text, prompts, tokens)[0].logprobs

    def _log_rollout(self, rollout: Rollout, seconds: dict[str, float]) -> None:
        valid = rollout.batch.valid
        lengths = torch.tensor([len(c.token_ids) for c in rollout.completions], device=self.device)
        cut = torch.tensor([not c.finished for c in rollout.completions], device=self.device)
        empty = torch.tensor([not text.strip() for text in rollout.texts], device=self.device)
        each = valid.repeat_interleave(self.group_size)
        totals: dict[str, Tensor | float] = {
            "groups": valid.sum(),
            "equal": (rollout.equal & valid).sum(),
            "spread": (rollout.rewards["total"].std(dim=1, correction=0) * valid).sum(),
            "advantages": (rollout.advantages.square().mean(dim=1) * valid).sum(),
            "length": (lengths * each).sum(),
            "cut": (cut & each).sum(),
            "empty": (empty & each).sum(),
            "skipped": len(rollout.batch.skipped),
        }
        for name, values in rollout.rewards.items():
            totals[f"reward/{name}"] = (values.mean(dim=1) * valid).sum()
            totals[f"square/{name}"] = (values.square().mean(dim=1) * valid).sum()
        if self.queue is not None:
            totals |= {"leftover": len(self.queue), "dropped": self.queue.dropped}
        sums = self.sums(totals)
        groups = max(1.0, sums["groups"])
        answers = groups * self.group_size
        for name in rollout.rewards:
            mean = sums[f"reward/{name}"] / groups
            self.log(f"rewards/{name}/mean", mean, prog_bar=name in ("total", "accuracy"))
            self.log(f"rewards/{name}/std", max(0.0, sums[f"square/{name}"] / groups - mean**2) ** 0.5)
        self.log("advantage/reward_spread", sums["spread"] / groups)
        self.log("advantage/rms", (sums["advantages"] / groups) ** 0.5)
        self.log("advantage/equal_groups", sums["equal"] / groups)
        self._warn_without_signal(sums["equal"] >= sums["groups"], sums["reward/total"] / groups)
        if self.queue is not None:
            self.log("advantage/leftover_groups", sums["leftover"])
            self.log("advantage/dropped_groups", sums["dropped"])
        self.log("completions/tokens", sums["length"] / answers, prog_bar=True)
        self.log("completions/cut_off", sums["cut"] / answers)
        self.log("completions/empty", sums["empty"] / answers)
        self.log("train/skipped_samples", sums["skipped"])
        for phase, value in seconds.items():
            self.log(f"seconds/{phase}", value)

    def _warn_without_signal(self, equal: bool, mean: float) -> None:
        """Warn after `PATIENCE` batches in a row, and each time as many more, in which no group has unequal rewards."""
        self._steps_without_signal = self._steps_without_signal + 1 if equal else 0
        if self._steps_without_signal and self._steps_without_signal % PATIENCE == 0:
            rank_zero_warn(
                f"NOTHING IS LEARNED FROM REWARDS: in the last {self._steps_without_signal} batches all answers to a "
                f"question got the same reward (mean {mean:g}), so that every advantage is 0. Look at the answers in "
                "TensorBoard (rollouts); a student that never answers in the format needs SFT first, and answers that "
                "are all cut off a larger model.rollout.max_new_tokens"
            )

    def _log_update(self, measured: dict[str, Tensor]) -> None:
        sums, passes = self.sums(dict(measured)), self.num_iterations
        learned = max(1.0, sums["learned"]) * passes
        self.log("train/loss", sums["loss"] / passes)
        self.log("policy/kl", sums["kl"] / learned, prog_bar=True)
        self.log("policy/clip_fraction", sums["clipped"] / learned)
        self.log("policy/ratio", sums["ratio"] / learned)
        self.log("policy/entropy", sums["entropy"] / learned, prog_bar=True)
        self.log("policy/sampler_mismatch", sums["mismatch"] / learned)
        if self.loss.importance_sampling_cap:
            self.log("policy/importance", sums["importance"] / learned)
        schedule = self.lr_schedulers()
        assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
        self.log("train/lr", schedule.get_last_lr()[0])
