"""Does sampling agree with scoring? The same tokens through every path that gives them a probability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy, Scores
from avrt.policy.reference import Reference
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: What is compared.
        difference: Largest absolute difference found.
        tolerance: Largest that passes.
        where: Sample and place of the largest difference.
    """

    name: str
    difference: float
    tolerance: float
    where: str = ""

    @property
    def passed(self) -> bool:
        """Whether the paths agree."""
        return self.difference <= self.tolerance


class Scorer(Protocol):
    """Anything with the verb `logprobs`: a policy, a reference."""

    def logprobs(self, prompts: EncodedPrompts, completions: Sequence[Tensor]) -> Scores:
        """Log-probabilities of given completions."""


@torch.no_grad()
def check_parity(
    policy: Policy,
    batch: OmniBatch,
    sampling: SamplingOptions,
    group_size: int,
    tolerance: float,
    scorer: Scorer | None = None,
) -> list[Check]:
    """Sample completions and compare every path that gives them a probability.

    Args:
        policy: The student, as it would start training.
        batch: A few samples.
        sampling: How training samples.
        group_size: Completions per sample.
        tolerance: Largest difference of log-probabilities that passes.
        scorer: What scores in training; the policy itself by default.

    Returns:
        Prompt positions against transformers' own; recorded log-probabilities against training's scoring; training's
        scoring against a plain forward pass of transformers with media and positions of its own; the reference against
        the policy, which are still the same.
    """
    policy.eval()
    scorer = scorer or policy
    prompts = policy.encode(batch)
    completions = policy.generate(prompts, sampling, seeds=list(range(len(batch) * group_size)), group_size=group_size)
    tokens = [completion.token_ids for completion in completions]
    names = _names(batch, group_size)
    scores = scorer.logprobs(prompts, tokens)
    recorded = torch.cat([completion.logprobs for completion in completions])
    stock = torch.cat(
        [
            policy.family.stock_logprobs(policy.model, policy.inputs.processor, batch, i // group_size, completion)
            for i, completion in enumerate(tokens)
        ]
    )
    own = scores if scorer is policy else policy.logprobs(prompts, tokens)
    reference = Reference(policy).logprobs(prompts, tokens).logprobs
    index = scores.completion_index
    return [
        _positions(policy, batch),
        _compare("sampling / scoring log-probabilities", recorded, scores.logprobs, index, names, tolerance),
        _compare("scoring / transformers log-probabilities", scores.logprobs, stock, index, names, tolerance),
        _compare("policy / reference log-probabilities", own.logprobs, reference, index, names, tolerance),
    ]


@torch.no_grad()
def check_engine(
    policy: Policy, batch: OmniBatch, completions: list[Completion], group_size: int, tolerance: float
) -> Check:
    """Another engine's completions: the log-probabilities that it recorded against training's scoring of them."""
    scores = policy.logprobs(policy.encode(batch), [completion.token_ids for completion in completions])
    recorded = torch.cat([completion.logprobs for completion in completions])
    names = _names(batch, group_size)
    index = scores.completion_index
    return _compare("vLLM / scoring log-probabilities", recorded, scores.logprobs, index, names, tolerance)


def _names(batch: OmniBatch, group_size: int) -> list[str]:
    return [f"{sample.id}, completion {g}" for sample in batch.samples for g in range(group_size)]


def _positions(policy: Policy, batch: OmniBatch) -> Check:
    """Our prompt positions against transformers' own; they have to be equal."""
    worst, where = 0.0, ""
    for i, sample in enumerate(batch.samples):
        expected = policy.family.stock_positions(policy.model, policy.inputs.processor, batch, i)
        apart = (expected - batch.prompt_positions[i]).abs()
        if float(apart.max()) > worst:
            worst = float(apart.max())
            where = f"{sample.id}, prompt token {int(apart.amax(0).argmax())}"
    return Check("prompt positions / transformers", worst, 0.0, where)


def _compare(name: str, one: Tensor, other: Tensor, rows: Tensor, names: list[str], tolerance: float) -> Check:
    apart = (one - other).abs().nan_to_num()
    worst = int(apart.argmax())
    row = int(rows[worst])
    token = worst - int((rows < row).sum())
    return Check(name, float(apart[worst]), tolerance, f"{names[row]}, token {token}")
