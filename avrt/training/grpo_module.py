"""GRPO on question-answer pairs (AVRT stage 2) under Lightning."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from avrt.algorithms.groups import GroupQueue
from avrt.algorithms.grpo import GRPOOptions, GRPOStep, grpo_step
from avrt.algorithms.rollout_ahead import RolloutAhead, grpo_step_ahead
from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import gather_objects
from avrt.errors import AvrtError
from avrt.objectives.advantages import STD_EPSILON
from avrt.objectives.policy_loss import PolicyLoss
from avrt.objectives.rewards import RewardOptions
from avrt.policy.reference import Reference
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.grpo_metrics import NoSignalWarning, distributions, engine_metrics, rollout_metrics, update_metrics
from avrt.training.lightning_internals import hand_back
from avrt.training.optimizers import OptimizerOptions
from avrt.training.training_module import TrainingModule

ON_PROGRESS_BAR = ("rewards/total/mean", "rewards/accuracy/mean", "completions/tokens", "policy/kl", "policy/entropy")


class GRPOModule(TrainingModule):
    """Improve the student on its own completions: AVRT eq. 2-6; `avrt.algorithms.grpo` has the step itself.

    Each step samples `group_size` completions of every question, scores them with the rewards, normalizes within each
    group, and takes `num_iterations` optimizer steps on the clipped loss with a KL penalty to the student it
    started from.

    Args:
        student: Which student; the reference is the same one, frozen.
        optimizer: Optimizer and schedule.
        group_size: G, completions per question (TRL: num_generations).
        rollout: How completions are drawn in training.
        loss: Type of the loss, clip range, KL weight and estimator.
        rewards: Weights and shapes of the rewards.
        normalize_std: Divide advantages by the group's standard deviation (TRL: scale_rewards); by default as the loss
            type does.
        unbiased_std: Divide by G - 1 in that deviation's variance, as TRL does; otherwise by G.
        std_epsilon: Added to the deviation, so that tiny differences of rewards do not give large advantages.
        num_iterations: Optimizer steps on each rollout. With 1 nothing is clipped, because the policy is still the one
            that sampled (except for groups that waited under dynamic sampling).
        mask_truncated_completions: Leave completions that were cut off out of the loss, so that length alone is not
            punished (overlong filtering of DAPO, arXiv 2503.14476); their rewards still count in their group's mean.
        dynamic_sampling: Drop zero_std groups, whose rewards are all equal, and sample up to this many batches to fill
            one step with others (DAPO); groups that are left over wait for the next step, in checkpoints too. 0
            switches it off: then every batch is a step, and zero_std groups have advantage 0 but count in the average
            and in the KL.
        micro_batch_size: Questions, each with its whole group, per forward and backward pass.
        router_loss: Weight of the load-balancing loss, for a student with experts (0.001
            is what Qwen3-Omni's own configuration has). It is taken over all tokens that
            the decoder reads, within each micro-batch. With LoRA routers stay as they are,
            and the adapters before them learn to spread the tokens. 0 does without.
        share_prefix: Read a prompt once for its whole group, in sampling and in scoring, instead of once per
            completion; the numbers are the same. An attention that cannot do that falls back to copies.
        reference: Where the reference's weights are: on the `device`, under ZeRO-3 scattered like the policy's; or on
            the `host`, in page-locked memory, from where they are brought to the device once a step. The numbers are
            the same. Outside that time it saves 6.8 GB on each device for a 3B student, 15.2 GB for 7B.
        vllm: Sample by vLLM instead of the native engine, in training and in `avrt validate`, `test` and `predict`.
        rollout_ahead: 1 has vLLM sample the next batch while the policy learns from the one before, so that the two
            take the time of the longer one. Completions then come from a policy that is one update older
            (`rollout/staleness`), which their recorded log-probabilities correct for: by ratio and clip, or, with
            `loss.importance_sampling_cap`, by an importance weight (decoupled PPO). 0 has the two take turns.
        vllm_in_validation: Let vLLM answer the validation questions while training too. Off, because its numbers are
            close to the policy's but not equal.
        generation: How completions are generated in validation, test and prediction.
        seed: Seed of the sampled completions.
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
        reference: Literal["device", "host"] = "device",
        vllm: VLLMOptions | None = None,
        rollout_ahead: int = 0,
        vllm_in_validation: bool = False,
        generation: SamplingOptions = SamplingOptions(temperature=0.0),
        seed: int = 0,
        router_loss: float = 0.0,
    ) -> None:
        super().__init__(
            student, optimizer, micro_batch_size, generation, rewards, vllm, vllm_in_validation, router_loss
        )
        if group_size < 2:
            raise ValueError("group_size must be at least 2: an advantage compares completions with each other")
        if std_epsilon < 0:
            raise ValueError("std_epsilon must be at least 0: it is added to a deviation")
        if reference == "host" and student.lora is not None:
            raise AvrtError(
                "with LoRA the reference is the policy without its adapters, and takes no memory",
                where="model.reference",
                remedy="leave it out",
            )
        if rollout_ahead:
            refuse_to_go_ahead(rollout_ahead, vllm)
        if not rollout.exact:
            rank_zero_warn(
                "model.rollout draws completions from another distribution than the policy's (temperature, top_k, "
                "top_p): the loss takes them for the policy's own, which biases it"
            )
        self.options = GRPOOptions(
            group_size, rollout, loss, normalize_std, unbiased_std, std_epsilon, num_iterations,
            mask_truncated_completions, micro_batch_size, rollout_ahead, router_loss,
        )  # fmt: skip
        self.num_iterations = num_iterations
        self.share_prefix = share_prefix
        self.seed = seed
        self.reference: Reference | None = None
        self.reference_place = reference
        self.queue = GroupQueue(dynamic_sampling) if dynamic_sampling else None
        self.ahead = RolloutAhead() if rollout_ahead else None
        self._no_signal = NoSignalWarning()

    # ---- set-up

    def load(self) -> None:
        """Load the policy, and set how it reads prompts."""
        super().load()
        self.policy.share_prefix = self.share_prefix

    def setup(self, stage: str) -> None:
        """Copy the policy as the reference before anything changes it, where it is needed."""
        super().setup(stage)
        if stage == "fit" and self.reference is None and self.options.loss.beta:
            self.reference = Reference(self.policy, self.reference_place)

    def needs_engine(self, stage: str) -> bool:
        """In every stage: rollouts are sampled by it."""
        return True

    def start_engine(self, stage: str) -> None:
        """Also say that the policy learns while it samples ahead: one that ends then has to get the older weights."""
        super().start_engine(stage)
        if self.ahead is not None and self.vllm is not None:
            self.ahead.engine = self.vllm
            self.vllm.supply.keeps = stage == "fit"

    def max_completion_length(self) -> int:
        """The longest completion of rollouts and evaluation; traces are never read."""
        return max(self.options.sampling.max_new_tokens, self.generation.max_new_tokens)

    def prompt_limit(self) -> int:
        """Also what vLLM has room for, where it is set: known before anything is sampled."""
        limit = super().prompt_limit()
        if self.vllm_options is not None and self.prompt_options.max_prompt_tokens is not None:
            self.vllm_options.check_room(limit, self.max_completion_length(), "data.prompt.max_prompt_tokens")
        return limit

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what waits on any rank, groups and the rollout in flight: only one rank's checkpoint may be kept.

        The batch of a rollout in flight counts as not handed out: a resumed run reads it again, and has these for it.
        """
        super().on_save_checkpoint(checkpoint)
        if self.queue is not None:
            checkpoint["waiting_groups"] = gather_objects(self.queue.state_dict())
        if self.ahead is not None and (batch := self.ahead.batch) is not None:
            checkpoint["rollout_ahead"] = gather_objects(self.ahead.state_dict())
            hand_back(checkpoint, batch.epoch, batch.consumed - self.samples_per_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up this rank's waiting groups, if the run that saved them had groups of the same size.

        So it does with the completions of a rollout that was in flight, if its batch is asked again.
        """
        super().on_load_checkpoint(checkpoint)
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        if self.ahead is not None:
            self.ahead.load_state_dict(checkpoint.get("rollout_ahead", []), self.global_rank)
        shares = checkpoint.get("waiting_groups", [])
        sizes = {len(group["completions"]) for share in shares for group in share["groups"]}
        if self.queue is None or sizes - {self.options.group_size}:
            if sizes:
                rank_zero_warn("the checkpoint's waiting groups cannot be used with these settings: left out")
            return
        self.queue.load_state_dict(shares, self.global_rank, self.trainer.world_size, self.device)

    # ---- steps

    def training_step(self, batch: OmniBatch, batch_idx: int) -> dict[str, Any]:
        """Sample, reward and update; or, with a rollout ahead, update on the batch before while this one is sampled."""
        if self.ahead is not None:
            return self._step_ahead(batch, self.ahead)
        self.policy.engine = self.vllm
        try:
            step = grpo_step(
                self.policy, self.reference, batch, self.step_optimizer, self.rewards, self.options,
                seed=(self.seed, batch.epoch, batch.step), queue=self.queue,
            )  # fmt: skip
        finally:
            self.policy.engine = None
        self._log_step(step)
        return {"rollout": step.rollout}

    def _step_ahead(self, batch: OmniBatch, ahead: RolloutAhead) -> dict[str, Any]:
        """Begin a rollout, learn from the one before; and from this one too where no batch comes after it."""
        take_step = partial(
            grpo_step_ahead, self.policy, self.reference, optimizer=self.step_optimizer, rewards=self.rewards,
            options=self.options, ahead=ahead, queue=self.queue,
        )  # fmt: skip
        step = take_step(batch, seed=(self.seed, batch.epoch, batch.step))
        if ahead.stored.missed:
            rank_zero_warn(
                "the checkpoint's completions are of other prompts, or drawn otherwise, than in this run: sampled anew"
            )
            ahead.stored.missed = False
        if step is not None:
            self._log_step(step)
        if self._is_last():
            if step is not None:  # two updates on one batch of the loader: each is a step of its own in the log
                self.run_log.flush()
                self.run_log.begin_batch()
            step = take_step(None)
            assert step is not None
            self._log_step(step)
        return {"rollout": None if step is None else step.rollout}

    def _is_last(self) -> bool:
        """Whether the batch at hand is the last to be learned from, as the run would be over with it or the next step.

        In a run that has taken all its steps already, because it was resumed with fewer, it is left to the checkpoint.
        """
        trainer = self.trainer
        left = trainer.max_steps - trainer.global_step if trainer.max_steps >= 0 else self.num_iterations + 1
        over = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        return left > 0 and (over or left <= self.num_iterations)

    def on_validation_epoch_start(self) -> None:
        """Have a rollout in flight finished before the engine is asked the validation's questions."""
        if self.ahead is not None and self.vllm_in_validation:
            self.ahead.wait()
        super().on_validation_epoch_start()

    def _log_step(self, step: GRPOStep) -> None:
        metrics = rollout_metrics(step, self.queue)
        self._no_signal.note(metrics["advantage/zero_std_groups"] >= 1, metrics["rewards/total/mean"])
        if self.vllm is not None:
            metrics |= engine_metrics(gather_objects(self.vllm.metrics()))
        if self.queue is not None:
            metrics["train/updated"] = float(step.metrics is not None)
        if step.metrics is not None:
            metrics |= update_metrics(step.metrics, self.options) | self.step_optimizer.metrics()
        self.log_values(metrics | self.cache_metrics(), on_bar=ON_PROGRESS_BAR)
        if self.run_log.is_due:
            for name, values in distributions(step.rollout).items():
                self.run_log.histogram(name, values)


def refuse_to_go_ahead(batches: int, vllm: VLLMOptions | None) -> None:
    """Refuse rollouts ahead where nothing can sample them.

    Raises:
        AvrtError: If the engine is this process itself, or sleeps while the policy learns; or for more than one batch.
    """
    if batches != 1:
        why, remedy = f"must be 0 or 1, not {batches}", "1 is one batch ahead"
    elif vllm is None:
        why, remedy = "the native engine is this process, which learns meanwhile", "set model.vllm, or this to 0"
    elif vllm.sleep:
        why, remedy = "an engine that sleeps meanwhile cannot sample", "set model.vllm.sleep: false, or this to 0"
    else:
        return
    raise AvrtError(why, where="model.rollout_ahead", remedy=remedy)
