"""Rollouts ahead: an engine samples the next batch while the policy learns from the one before.

Read from top to bottom: `grpo_step_ahead` takes the completions of the batch before, gives the engine the weights as
they are now with the next questions, and learns meanwhile. So a batch is learned from one update after the engine was
given the weights: one-step off-policy, as in verl's recipe of that name and in prime-rl (Noukhovitch et al., arXiv
2410.18252). `MicroBatch.old_logprobs` says what corrects for it. In `avrt.algorithms.grpo` the two take turns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from avrt.algorithms.groups import GroupQueue, Sampled
from avrt.algorithms.grpo import GRPOOptions, GRPOStep, learn
from avrt.algorithms.optimizer import StepOptimizer
from avrt.algorithms.stored_completions import Asked, StoredCompletions
from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.objectives.rewards import RewardSum
from avrt.policy.policy import Policy
from avrt.policy.reference import Reference
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions, completion_seeds


def grpo_step_ahead(
    policy: Policy,
    reference: Reference | None,
    batch: OmniBatch | None,
    optimizer: StepOptimizer,
    rewards: RewardSum,
    options: GRPOOptions,
    ahead: RolloutAhead,
    *,
    seed: tuple[int, ...] = (0,),
    queue: GroupQueue | None = None,
) -> GRPOStep | None:
    """Learn from the batch before while the engine samples this one; the first call has nothing to learn from.

    Args:
        policy: The student.
        reference: The student as it was at first; None only if the KL weight is 0.
        batch: The next B questions; None if there are no more, to learn from the last ones.
        optimizer: Takes gradients and steps.
        rewards: Scores a completion.
        options: The step's settings.
        ahead: The batch before, on its way.
        seed: Together with a sample's id and a completion's number it fixes what is drawn for this batch.
        queue: Collects groups until a step is full (dynamic sampling); without it every batch is a step.
    """
    before = ahead.finish()
    if batch is not None:
        ahead.begin(policy, batch, options, seed)
    if before is None:
        return None
    step = learn(policy, reference, before.encoded(policy), optimizer, rewards, options, queue)
    ahead.staleness += step.metrics is not None
    return step


class AheadEngine(Protocol):
    """An engine that samples while this process does other things.

    Attributes:
        sampling_seconds: What its last completions took it.
    """

    sampling_seconds: float

    def begin(
        self, policy: Policy, prompts: EncodedPrompts, sampling: SamplingOptions, seeds: Sequence[int], group_size: int
    ) -> Any:
        """Give it the weights as they are now, and ask for completions; returns what `finish` is given."""

    def finish(self, pending: Any) -> list[Completion]:
        """Wait for them."""


@dataclass
class Answered:
    """A batch whose completions have come; what is not said here is as in `Sampled`."""

    batch: OmniBatch
    completions: list[Completion]
    staleness: int
    seconds: dict[str, float]
    sampling_seconds: float

    def encoded(self, policy: Policy) -> Sampled:
        """Run the towers over its clips: only now, while the engine has the next batch to do."""
        begun = time.perf_counter()
        prompts = policy.encode(self.batch)
        seconds = self.seconds | {"rollout": self.seconds["rollout"] + time.perf_counter() - begun}
        return Sampled(self.batch, prompts, self.completions, seconds, self.staleness, self.sampling_seconds)


class RolloutAhead:
    """The one batch that is being sampled, or has been, and is not learned from yet.

    Args:
        engine: Samples; None until there is one.

    Attributes:
        batch: Its questions; None if there is no such batch.
        staleness: Updates of the policy since it was given to the engine.
        stored: A checkpoint's completions, for the batch that is begun next.
    """

    def __init__(self, engine: AheadEngine | None = None) -> None:
        self.engine = engine
        self.batch: OmniBatch | None = None
        self.staleness = 0
        self.stored = StoredCompletions()
        self._pending: Any = None
        self._completions: list[Completion] | None = None
        self._sampled = 0.0
        self._seconds = {"rollout": 0.0, "wait": 0.0}
        self._asked: Asked | None = None

    def begin(self, policy: Policy, batch: OmniBatch, options: GRPOOptions, seed: tuple[int, ...]) -> None:
        """Have the engine sample a batch by the policy's weights as they are now, unless a checkpoint had done so."""
        begun = time.perf_counter()
        self.batch, self.staleness = batch, 0
        seeds = completion_seeds((sample.id for sample in batch.samples), options.group_size, *seed)
        self._asked = Asked(batch, options.sampling, seeds, options.group_size)
        self._completions = None
        if (found := self.stored.take(self._asked)) is not None:
            self._completions, self.staleness = found
        else:
            assert self.engine is not None
            nothing = ClipFeatures.none(len(batch))  # the engine prepares the clips by itself
            prompts = EncodedPrompts.of(batch, nothing)
            self._pending = self.engine.begin(policy, prompts, options.sampling, seeds, options.group_size)
        self._seconds = {"rollout": time.perf_counter() - begun, "wait": 0.0}
        self._sampled = 0.0

    def wait(self) -> None:
        """Wait for the completions, and keep them until `finish` takes them: then the engine can do other things."""
        if self.batch is None or self._completions is not None:
            return
        assert self.engine is not None
        begun = time.perf_counter()
        self._completions, self._pending = self.engine.finish(self._pending), None
        self._seconds["wait"] += time.perf_counter() - begun
        # As the engine says: it may have been done long before it was asked for them.
        self._sampled = self._seconds["rollout"] + self.engine.sampling_seconds

    def finish(self) -> Answered | None:
        """The batch and its completions, once they have come; None if none was begun."""
        if self.batch is None:
            return None
        self.wait()
        assert self._completions is not None
        done = Answered(self.batch, self._completions, self.staleness, self._seconds, self._sampled)
        self.batch, self._completions = None, None
        return done

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """This rank's share of a checkpoint: its completions, by the questions they belong to; waits for them.

        The batch itself is not in it: a resumed run reads it again, and takes these for it.
        """
        if self.batch is None:
            return StoredCompletions.nothing()
        self.wait()
        assert self._asked is not None
        return StoredCompletions.share(self._asked, self._completions or [], self.staleness)

    def load_state_dict(self, shares: Sequence[dict[str, Any]], rank: int) -> None:
        """Take the completions in the shares of all ranks for the batch that is begun next.

        Another number of ranks than saved them finds those of its own samples among all of them.
        """
        self.stored = StoredCompletions(shares, rank)
