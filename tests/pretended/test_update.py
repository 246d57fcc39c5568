"""Scoring, the reference, the loss and the backward pass of full-size students, and whole steps of cut ones."""

import pytest
import torch

from avrt.algorithms.groups import Group
from avrt.algorithms.grpo import GRPOOptions, grpo_step, policy_update
from avrt.algorithms.sft import sft_step
from avrt.objectives.rewards import RewardOptions, RewardSum
from avrt.policy.reference import Reference
from avrt.policy.student_options import LoraOptions
from avrt.rollout.completion import Completion
from avrt.rollout.sampling import SamplingOptions
from tests.pretended.device import PretendedDevice
from tests.pretended.drawing import TEXT_TOKEN, ending_unevenly
from tests.pretended.models import clip_batch, encoded_prompts, policy_of, released_model

GROUP = 4
ANSWER = 165
TRACE = "<think>" + "so it is " * 52 + "</think><answer>A</answer>"


class Gradients:
    """A `StepOptimizer` that takes gradients and no step."""

    def __init__(self, policy) -> None:
        self.parameters = [p for p in policy.parameters() if p.requires_grad]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        torch.autograd.backward(loss)

    def step(self) -> None:
        assert all(parameter.grad is not None for parameter in self.parameters)


def groups_of(policy, count: int) -> list[Group]:
    """Groups that were sampled, with completions of unequal length."""
    groups = []
    for number in range(count):
        lengths = [ANSWER, ANSWER - 20, ANSWER - 100 - number, 1]
        completions = [
            Completion(torch.full((n,), TEXT_TOKEN, device="cuda"), torch.zeros(n, device="cuda"), True)
            for n in lengths
        ]
        advantages = torch.linspace(-1, 1, GROUP).to("cuda")
        groups.append(Group(encoded_prompts(policy, [1999 + number]), completions, advantages, valid=True))
    return groups


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", ["3B", "7B"])
def test_a_micro_batch_waits_for_nobody(size, checkpointing):
    """Policy, reference, loss and backward pass of one group: before 266 synchronizations, for 36 layers."""
    with PretendedDevice() as device:
        policy = policy_of(released_model(size), checkpointing=checkpointing)
        reference, optimizer = Reference(policy), Gradients(policy)
        policy.train()
        counts = []
        for count in (1, 2):
            groups = groups_of(policy, count)
            with device.counting() as account:
                policy_update(policy, reference, groups, optimizer, GRPOOptions(group_size=GROUP))
            counts.append((account.synchronizations + account.blocking_copies).total())
            print(f"{size}, checkpointing {checkpointing}, {count} micro-batches: {account}")
        layers = policy.decoder.language_model.config.num_hidden_layers
        assert counts[1] == counts[0] < 5
        assert account.attention.total() == 2 * (3 if checkpointing else 2) * layers
        assert account.kernels.total() < 2 * (225 if checkpointing else 185) * layers


def test_adapters_and_the_policy_without_them_stay_on_the_device():
    with PretendedDevice() as device:
        policy = policy_of(released_model("3B", layers=2), checkpointing=True, lora=LoraOptions(rank=8))
        optimizer = Gradients(policy)
        policy.train()
        with device.counting() as account:
            policy_update(policy, Reference(policy), groups_of(policy, 2), optimizer, GRPOOptions(group_size=GROUP))
        print(account)
        assert account.synchronizations.total() < 5
        assert all("lora" in name for name, p in policy.named_parameters() if p.grad is not None)


@pytest.mark.parametrize("decoding", ["dynamic", "static"])
def test_a_whole_grpo_step_stays_on_the_device(decoding):
    """From the batch to the gradients; most of what waits is the host reading what was sampled."""
    with PretendedDevice() as device:
        policy = policy_of(released_model("3B", layers=2), checkpointing=True)
        device.sample = ending_unevenly(0.05, policy.inputs.tokenizer.eos_token_id)
        batch = clip_batch(policy, 2).to("cuda")
        options = GRPOOptions(group_size=GROUP, sampling=SamplingOptions(max_new_tokens=32, decoding=decoding))
        policy.train()
        with device.counting() as account:
            done = grpo_step(policy, Reference(policy), batch, Gradients(policy), RewardSum(RewardOptions()), options)
        print(f"{decoding}: {account}")
        assert len(done.rollout.completions) == 2 * GROUP
        assert all(value.is_cuda for value in done.metrics.values())
        assert account.synchronizations.total() < 10


def test_a_whole_sft_step_stays_on_the_device():
    with PretendedDevice() as device:
        policy = policy_of(released_model("3B", layers=2), checkpointing=True)
        batch = clip_batch(policy, 2, trace=TRACE).to("cuda")
        policy.train()
        with device.counting() as account:
            done = sft_step(policy, batch, Gradients(policy))
        print(account)
        assert done.total_targets == sum(len(ids) for ids in batch.completion_ids)
        assert account.synchronizations.total() < 10
