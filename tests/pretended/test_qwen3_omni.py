"""Qwen3-Omni at its released size, decoder and sound tower cut: nothing waits for the device, and the plan is right."""

import pytest
import torch
from transformers import Qwen3OmniMoeThinkerForConditionalGeneration

from avrt.commands.phases import shape_of
from avrt.models.memory_estimate import expected_bytes
from avrt.models.qwen3_omni.encoding_estimate import encoding_cost
from avrt.models.qwen3_omni.family import Qwen3Omni
from avrt.models.qwen3_omni.nano import PATCH, nano_processor
from avrt.models.qwen3_omni.released_sizes import released_config
from avrt.policy.policy import Policy
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.rollout.static import PROMPT_MULTIPLE
from tests.pretended.device import PretendedDevice
from tests.pretended.drawing import TEXT_TOKEN
from tests.pretended.models import clip_batch
from tests.pretended.phases import bytes_of_phases

LAYERS = 4


def released_policy(*, sound_layers=1, **options):
    """A policy of random weights in bf16, with patches as the nano preset cuts them."""
    processor = nano_processor()
    config = released_config(processor)
    config.text_config.num_hidden_layers, config.vision_config.patch_size = LAYERS, PATCH
    config.audio_config.encoder_layers = sound_layers
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = Qwen3OmniMoeThinkerForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(usual)
    return Policy(Qwen3Omni(), model, processor, StudentOptions("released", dtype="bfloat16", **options))


def test_towers_and_layers_with_added_features_wait_for_nobody():
    with PretendedDevice() as device:
        policy = released_policy(sound_layers=32)
        batch = clip_batch(policy, 8).to("cuda")
        with device.counting() as account:
            prompts = policy.encode(batch)
        assert account.attention.total() == 27 + 32
        assert account.kernels.total() <= 1200
        assert not account.synchronizations + account.blocking_copies
        vision, audio = (sum(map(len, f)) for f in (prompts.features.vision, prompts.features.audio))
        assert prompts.features.vision[0].shape[1] == 4 * 2048
        cost = encoding_cost(policy.model, vision, audio, 2)
        print(f"{account}; forecast {(cost.working + cost.features) / 1e9:.2f} GB")
        assert cost.working + cost.features == pytest.approx(account.peak, rel=0.15)
        completions = [torch.full((40,), TEXT_TOKEN, device="cuda") for _ in range(16)]
        with device.counting() as account, torch.no_grad():
            policy.logprobs(prompts, completions)
        assert account.attention.total() == LAYERS
        assert not account.synchronizations + account.blocking_copies


@pytest.mark.parametrize(
    ("prompts", "group_size", "checkpointing", "lora"),
    [([1999], 16, True, LoraOptions(rank=8)), ([2000, 2000], 4, False, None)],
)
def test_forecast_of_a_mixture_of_experts(prompts, group_size, checkpointing, lora):
    answer = 165
    with PretendedDevice() as device:
        policy = released_policy(gradient_checkpointing=checkpointing, lora=lora)
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        measured = bytes_of_phases(device, policy, prompts, group_size, answer)
    room = -(-max(prompts) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
    expected = expected_bytes(shape_of(policy), prompts, group_size, answer, room=room)
    ratios = {phase: expected[phase] / measured[phase] for phase in measured}
    print(ratios)
    assert ratios == pytest.approx(dict.fromkeys(measured, 1.0), rel=0.1)
