"""Prefill and decoding: full-size students token by token, and how often the host waits for the device."""

import pytest
import torch

from avrt.rollout.sampling import SamplingOptions
from tests.pretended.device import PretendedDevice
from tests.pretended.drawing import TEXT_TOKEN, ending_unevenly
from tests.pretended.models import encoded_prompts, policy_of, released_model

PROMPTS = [2000, 2050, 1900, 2100, 1999, 2001, 1950, 2048]
GROUP = 4
TOKENS = 64


def sampled(policy, device, *, decoding, tokens, group=GROUP):
    """Completions of the prompts, and the account of sampling them."""
    prompts = encoded_prompts(policy, PROMPTS)
    seeds = list(range(len(PROMPTS) * group))
    with device.counting() as account:
        completions = policy.generate(
            prompts, SamplingOptions(max_new_tokens=tokens, decoding=decoding), seeds=seeds, group_size=group
        )
    return completions, account


@pytest.mark.parametrize("size", ["3B", "7B"])
@pytest.mark.parametrize("decoding", ["dynamic", "static"])
def test_full_size_students_decode_on_one_device(size, decoding):
    """Rows end unevenly; a token of the 3B was and is 2,030 kernels in growing caches, and in fixed buffers one."""
    with PretendedDevice() as device:
        policy = policy_of(released_model(size))
        device.sample = ending_unevenly(0.05, policy.inputs.tokenizer.eos_token_id)
        _, first = sampled(policy, device, decoding=decoding, tokens=1)
        completions, account = sampled(policy, device, decoding=decoding, tokens=18)
        lengths = sorted(len(completion.token_ids) for completion in completions)
        print(f"{size} {decoding}: prefill {first}\nlengths {lengths} {account}")
        assert lengths[0] < 10
        assert lengths[-1] == 18
        layers = policy.decoder.language_model.config.num_hidden_layers
        assert first.attention.total() == layers  # all prompts at once
        if decoding == "dynamic":
            assert account.kernels.total() - first.kernels.total() < 17 * 58 * layers
        else:
            assert account.kernels["CUDAGraph.replay"] == 16  # the first step is run before it is recorded
            assert account.kernels.total() < 120 * layers


@pytest.mark.parametrize("decoding", ["dynamic", "static"])
@pytest.mark.parametrize("uneven", [False, True])
def test_sampling_hardly_waits(decoding, uneven):
    """Per token: before 5 synchronizations, and 77 with 36 layers where rows ended unevenly."""
    with PretendedDevice() as device:
        policy = policy_of(released_model("3B", layers=2))
        eos = policy.inputs.tokenizer.eos_token_id
        device.sample = ending_unevenly(0.05, eos) if uneven else lambda shape: torch.full(shape, TEXT_TOKEN)
        completions, account = sampled(policy, device, decoding=decoding, tokens=TOKENS)
        lengths = sorted(len(completion.token_ids) for completion in completions)
        print(f"{decoding}, lengths {lengths}: {account}")
        assert (lengths[0] < TOKENS // 4) == uneven
        assert lengths[-1] == TOKENS or uneven
        assert (account.synchronizations.total() + account.blocking_copies.total()) / lengths[-1] < 0.15


def test_a_token_is_one_launch_in_fixed_buffers():
    with PretendedDevice() as device:
        device.sample = lambda shape: torch.full(shape, TEXT_TOKEN)
        policy = policy_of(released_model("3B", layers=2))
        sampled(policy, device, decoding="static", tokens=TOKENS)
        kernels = [sampled(policy, device, decoding="static", tokens=TOKENS)[1].kernels for _ in range(2)]
        print(kernels[0].most_common(5))
        assert kernels[0]["CUDAGraph.replay"] == TOKENS - 1  # the recorded step serves the next batches too
        assert kernels[0] == kernels[1]


def test_waiting_prompts_take_the_rows_of_finished_ones():
    with PretendedDevice() as device:
        policy = policy_of(released_model("3B", layers=1))
        device.sample = ending_unevenly(0.1, policy.inputs.tokenizer.eos_token_id)
        prompts = encoded_prompts(policy, PROMPTS)
        sampling = SamplingOptions(max_new_tokens=TOKENS, prompts_at_once=3)
        with device.counting() as account:
            completions = policy.generate(prompts, sampling, seeds=list(range(16)), group_size=2)
        steps = account.kernels["CUDAGraph.replay"]
        print(f"{steps} steps: {account}")
        assert len(completions) == 16
        assert steps > max(len(completion.token_ids) for completion in completions)
        assert account.synchronizations.total() < steps


def test_without_a_shared_prefix_each_row_has_its_copy_on_the_device():
    with PretendedDevice() as device:
        policy = policy_of(released_model("3B", layers=1))
        policy.share_prefix = False
        device.sample = ending_unevenly(0.1, policy.inputs.tokenizer.eos_token_id)
        completions, account = sampled(policy, device, decoding="dynamic", tokens=20, group=2)
        print(account)
        scores = policy.logprobs(encoded_prompts(policy, PROMPTS), [c.token_ids for c in completions])
        assert len(scores.logprobs) == sum(len(completion.token_ids) for completion in completions)
        assert scores.logprobs.is_cuda
