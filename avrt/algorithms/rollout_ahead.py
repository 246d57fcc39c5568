"""Rollouts ahead: an engine samples the next batch while the policy learns from the one before.

Read from top to bottom: `grpo_step_ahead` takes the completions of the batch before, gives the engine the weights as
they are now with the next questions, and learns meanwhile. So a batch is learned from one update after the engine was
given the weights: one-step off-policy, as in verl's recipe of that name and in prime-rl (Noukhovitch et al., arXiv
2410.18252). `MicroBatch.old_logprobs` says what corrects for it. In `avrt.algorithms.grpo` the two take turns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from avrt.algorithms.groups import GroupQueue, Sampled
from avrt.algorithms.grpo import GRPOOptions, GRPOStep, learn
from avrt.algorithms.optimizer import StepOptimizer
from avrt.data.inputs.batch import OmniBatch
from avrt.distributed import all_reduce_min
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
    """An engine that samples while this process does other things."""

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
        missed: Whether a checkpoint's completions were of no use, as they belong to other samples.
    """

    def __init__(self, engine: AheadEngine | None = None) -> None:
        self.engine = engine
        self.batch: OmniBatch | None = None
        self.staleness = 0
        self.missed = False
        self._pending: Any = None
        self._completions: list[Completion] | None = None
        self._begun = self._came = 0.0
        self._seconds = {"rollout": 0.0, "wait": 0.0}
        self._stored: list[dict[str, Any]] = []

    def begin(self, policy: Policy, batch: OmniBatch, options: GRPOOptions, seed: tuple[int, ...]) -> None:
        """Have the engine sample a batch by the policy's weights as they are now, unless a checkpoint had done so."""
        self._begun = self._came = time.perf_counter()
        self.batch, self.staleness = batch, 0
        self._completions = self._take_stored(batch, options.group_size)
        if self._completions is None:
            assert self.engine is not None
            nothing = ClipFeatures([None] * len(batch), [None] * len(batch))  # the engine prepares the clips by itself
            seeds = completion_seeds((sample.id for sample in batch.samples), options.group_size, *seed)
            prompts = EncodedPrompts.of(batch, nothing)
            self._pending = self.engine.begin(policy, prompts, options.sampling, seeds, options.group_size)
        self._seconds = {"rollout": time.perf_counter() - self._begun, "wait": 0.0}

    def wait(self) -> None:
        """Wait for the completions, and keep them until `finish` takes them: then the engine can do other things."""
        if self.batch is None or self._completions is not None:
            return
        assert self.engine is not None
        begun = time.perf_counter()
        self._completions, self._pending = self.engine.finish(self._pending), None
        self._came = time.perf_counter()
        self._seconds["wait"] += self._came - begun

    def finish(self) -> Answered | None:
        """The batch and its completions, once they have come; None if none was begun."""
        if self.batch is None:
            return None
        self.wait()
        assert self._completions is not None
        done = Answered(self.batch, self._completions, self.staleness, self._seconds, self._came - self._begun)
        self.batch, self._completions = None, None
        return done

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """This rank's share of a checkpoint: its completions, by the samples they belong to; waits for them.

        The batch itself is not in it: a resumed run reads it again, and takes these for it.
        """
        if self.batch is None:
            return {"ids": [], "completions": [], "staleness": 0}
        self.wait()
        plain = [asdict(completion) for completion in self._completions or []]
        for completion in plain:
            completion |= {name: completion[name].cpu() for name in ("token_ids", "logprobs")}
        return {"ids": [s.id for s in self.batch.samples], "completions": plain, "staleness": self.staleness}

    def load_state_dict(self, shares: Sequence[dict[str, Any]], rank: int) -> None:
        """Take the completions in the shares of all ranks for the batch that is begun next.

        Another number of ranks than saved them finds those of its own samples among all of them.
        """
        self._stored = [*shares[rank : rank + 1], *shares[:rank], *shares[rank + 1 :]]

    def _take_stored(self, batch: OmniBatch, group_size: int) -> list[Completion] | None:
        """The completions of a checkpoint for a batch, if there are any on every rank; they serve once."""
        shares, self._stored = self._stored, []
        if not shares:
            return None
        groups: dict[str, list[dict[str, Any]]] = {}
        for share in shares:
            if len(share["completions"]) == len(share["ids"]) * group_size:
                for i, name in enumerate(share["ids"]):
                    groups.setdefault(name, share["completions"][i * group_size : (i + 1) * group_size])
        device, spare = batch.valid.device, next(iter(groups.values()), [])  # a padding sample may take any
        rows = zip(batch.samples, batch.valid.tolist(), strict=True)
        found = [groups.get(sample.id, [] if valid else spare) for sample, valid in rows]
        complete = all(found)
        # Asking anew may be something that all ranks do together, such as gathering weights.
        self.missed = not all_reduce_min(int(complete), device)
        if self.missed:
            return None
        self.staleness = max(share["staleness"] for share in shares)
        return [
            Completion(plain["token_ids"].to(device), plain["logprobs"].to(device), plain["finished"])
            for group in found
            for plain in group
        ]
