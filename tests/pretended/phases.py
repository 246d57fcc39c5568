"""Peak memory of a GRPO step's phases, for full-size students of any lengths: what the forecast has to agree with."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from avrt.rollout.sampling import SamplingOptions
from tests.pretended.device import PretendedDevice
from tests.pretended.models import encoded_prompts, policy_of, released_model

DECODED = 3
"""Tokens after which all completions end, in buffers that have room for the longest."""
TEXT_TOKEN = 300


def measured_bytes(
    size: str, prompts: Sequence[int], group_size: int, answer: int, *, checkpointing: bool
) -> dict[str, int]:
    """Bytes that each phase takes at its peak above weights, gradients and encoded clips, which are there already.

    The lengths stand for one micro-batch. Sampling is in buffers of fixed shape, which have their full size from the
    first token on.

    Args:
        size: `3B` or `7B`, in bf16.
        prompts: Tokens of each prompt, at least 600.
        group_size: G.
        answer: Tokens of each completion, R.
        checkpointing: Activation checkpointing in the update.

    Returns:
        `rollout` (prefill and decoding), `reference` (scoring without gradient) and `update` (scoring with gradient,
        and the backward pass).
    """
    device, model = _student(size)
    with device:
        policy = policy_of(model, checkpointing=checkpointing)
        questions = encoded_prompts(policy, prompts)
        rows = len(prompts) * group_size
        completions = [torch.full((answer,), TEXT_TOKEN, device="cuda") for _ in range(rows)]
        device.sample = ending_after(DECODED, policy.inputs.tokenizer.eos_token_id)

        def rollout() -> None:
            sampling = SamplingOptions(max_new_tokens=answer, decoding="static")
            policy.generate(questions, sampling, seeds=list(range(rows)), group_size=group_size)

        def reference() -> None:
            policy.eval()
            with torch.no_grad():
                policy.logprobs(questions, completions)

        def update() -> None:
            policy.train()
            torch.autograd.backward(policy.logprobs(questions, completions).logprobs.sum())

        # Scoring first: the buffers of sampling stay with the policy.
        phases = {"update": update, "reference": reference, "rollout": rollout}
        found = {name: _peak(device, phase) for name, phase in phases.items()}
    return {name: found[name] for name in ("rollout", "reference", "update")}


def ending_after(steps: int, eos_token_id: int) -> Callable[[torch.Size], torch.Tensor]:
    """Sampled tokens: text, and all rows end with their `steps`-th token."""
    drawn = 0

    def sample(shape: torch.Size) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        return torch.full(shape, eos_token_id if drawn >= steps else TEXT_TOKEN)

    return sample


@cache
def _student(size: str) -> tuple[PretendedDevice, Any]:
    """A device with the model and its gradients on it."""
    device = PretendedDevice()
    with device:
        model = released_model(size)
        for parameter in policy_of(model).parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    return device, model


def _peak(device: PretendedDevice, phase: Callable[[], None]) -> int:
    gc.collect()
    with device.counting() as account:
        phase()
    return account.peak
