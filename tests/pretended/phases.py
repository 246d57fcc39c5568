"""Peak memory of a GRPO step's phases, for full-size students of any lengths: what the forecast has to agree with."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from avrt.models.encoded_prompts import EncodedPrompts
from avrt.policy.policy import Policy
from avrt.rollout.sampling import SamplingOptions
from tests.pretended.account import Account
from tests.pretended.device import PretendedDevice
from tests.pretended.drawing import TEXT_TOKEN, ending_after
from tests.pretended.models import encoded_prompts, policy_of, released_model

DECODED = 3
"""Tokens after which all completions end, in buffers that have room for the longest."""


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
        return bytes_of_phases(device, policy_of(model, checkpointing=checkpointing), prompts, group_size, answer)


def bytes_of_phases(
    device: PretendedDevice, policy: Policy, prompts: Sequence[int], group_size: int, answer: int
) -> dict[str, int]:
    """The same of any policy on the device, which is entered."""
    questions = encoded_prompts(policy, prompts)
    completions = [torch.full((answer,), TEXT_TOKEN, device="cuda") for _ in range(len(prompts) * group_size)]

    def reference() -> None:
        policy.eval()
        with torch.no_grad():
            policy.logprobs(questions, completions)

    def update() -> None:
        policy.train()
        torch.autograd.backward(policy.logprobs(questions, completions).logprobs.sum())

    found = {"update": _account(device, update).peak, "reference": _account(device, reference).peak}
    # Last, because its buffers stay with the policy.
    rollout = _account(device, lambda: _sample(device, policy, questions, group_size, answer))
    return {"rollout": rollout.peak, **found}


def bytes_kept_by_sampling(size: str, prompts: Sequence[int], group_size: int, answer: int) -> int:
    """Bytes that stay taken between rollouts: the buffers, and the memory of the recorded step."""
    device, model = _student(size)
    with device:
        policy = policy_of(model)
        questions = encoded_prompts(policy, prompts)
        return _account(device, lambda: _sample(device, policy, questions, group_size, answer)).kept


def _sample(device: PretendedDevice, policy: Policy, questions: EncodedPrompts, group_size: int, answer: int) -> None:
    device.sample = ending_after(DECODED, policy.inputs.tokenizer.eos_token_id)
    sampling = SamplingOptions(max_new_tokens=answer, decoding="static")
    policy.generate(questions, sampling, seeds=list(range(len(questions) * group_size)), group_size=group_size)


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


def _account(device: PretendedDevice, phase: Callable[[], None]) -> Account:
    gc.collect()
    with device.counting() as account:
        phase()
    return account
