"""Full-size towers over 8 clips of 8 frames and 10 s of sound."""

import pytest
import torch

from tests.pretended.device import PretendedDevice
from tests.pretended.models import clip_batch, policy_of, released_model

LAYERS = 32 + 32


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_towers_attend_once_per_layer_and_wait_for_nobody(size):
    """One call per window and second of sound were 23,808 attention calls, 25,812 kernels and 209 synchronizations."""
    with PretendedDevice() as device:
        policy = policy_of(released_model(size))
        batch = clip_batch(policy, 8)
        with device.counting() as moving:
            batch = batch.to("cuda")
        with device.counting() as account:
            prompts = policy.encode(batch)
        assert not moving.synchronizations
        assert not moving.blocking_copies
        assert not account.blocking_copies
        print(f"{size} towers, 8 clips: {account}")
        assert account.attention.total() == LAYERS
        assert account.kernels.total() <= 1800
        assert not account.synchronizations
        width = policy.decoder.language_model.config.hidden_size
        for ids, vision, audio in zip(prompts.token_ids, prompts.features.vision, prompts.features.audio, strict=True):
            tokens = ids.tolist()
            assert vision.shape == (tokens.count(policy.inputs.ids.video), width)
            assert audio.shape == (tokens.count(policy.inputs.ids.audio), width)
            assert vision.is_cuda
            assert vision.dtype == audio.dtype == torch.bfloat16
