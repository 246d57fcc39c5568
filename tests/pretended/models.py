"""The released students at their true dimensions, and questions for them, on the pretended device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.sample import Modality, Sample
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.qwen2_5_omni.family import QwenOmni
from avrt.models.qwen2_5_omni.nano import nano_processor
from avrt.models.qwen2_5_omni.released_sizes import released_config
from avrt.policy.policy import Policy
from avrt.policy.student_options import LoraOptions, StudentOptions
from tests.pretended.drawing import TEXT_TOKEN

SOUND_TOKENS = 250
"""Of a sound of 10 s."""


@cache
def processor() -> Any:
    """The nano preset's processor, which has all the parts of the released one."""
    return nano_processor()


def released_model(size: str, *, layers: int | None = None) -> Any:
    """A thinker of a released size, weights in bf16 and buffers in float32; to be made within the pretended device.

    Args:
        size: `3B` or `7B`.
        layers: Cut the decoder and both towers to so many layers.
    """
    config = released_config(size, processor())
    if layers is not None:
        cut(config, layers)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # as `from_pretrained` does it
    try:
        with torch.device("cuda"):
            return Qwen2_5OmniThinkerForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(usual)


def policy_of(model: Any, *, checkpointing: bool = False, lora: LoraOptions | None = None) -> Policy:
    """A policy of a model; without adapters it may have been another's before."""
    model.model.language_model.activation_checkpointing_disable()
    options = StudentOptions("released", dtype="bfloat16", gradient_checkpointing=checkpointing, lora=lora)
    return Policy(QwenOmni(), model, processor(), options)


def cut(config: Any, layers: int) -> None:
    """Leave so many layers of the decoder and of each tower; the last of the vision tower's sees whole frames."""
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = config.text_config.layer_types[:layers]
    config.vision_config.depth = layers
    config.vision_config.fullatt_block_indexes = [layers - 1]
    config.audio_config.encoder_layers = layers


def clip_batch(policy: Policy, count: int, *, words: int = 600, trace: str | None = None) -> OmniBatch:
    """Questions on the host about `count` clips of 8 frames, 476 x 476 pixels, and 10 s of sound.

    Args:
        policy: Whose preprocessor makes them.
        count: B.
        words: In the first question; each further one has three more.
        trace: To be learned from.
    """
    frames = torch.zeros(8, 3, 476, 476, dtype=torch.uint8)
    clip = Clip(frames, tuple(1.25 * i for i in range(8)), 1.25, audio=torch.linspace(-0.1, 0.1, 10 * SAMPLE_RATE))
    preprocessor = Preprocessor(policy.inputs, PromptOptions(audio_in_video=True), targets=trace is not None)
    media = (Modality.VIDEO, Modality.AUDIO)
    questions = ["see " * (words + 3 * i) + "?" for i in range(count)]
    samples = [Sample(f"q{i}", question, ("a", "b"), 0, media, trace=trace) for i, question in enumerate(questions)]
    return collate([preprocessor.row(sample, clip) for sample in samples])


def encoded_prompts(policy: Policy, lengths: Sequence[int]) -> EncodedPrompts:
    """Prompts of given lengths whose clips are encoded already: half of the tokens picture, 250 sound, the rest text.

    Args:
        policy: The student.
        lengths: Tokens of each prompt, at least 600.
    """
    special: Any = policy.inputs
    width = policy.decoder.language_model.config.hidden_size
    parts = []
    for length in lengths:
        pictures = torch.arange(20, 20 + length // 2)
        sounds = torch.arange(20 + length // 2, 20 + length // 2 + SOUND_TOKENS)
        ids = torch.full((length,), TEXT_TOKEN)
        ids[pictures], ids[sounds] = special.ids.video, special.ids.audio
        features: list[Tensor | None] = [
            torch.empty(len(at), width, dtype=torch.bfloat16, device="cuda") for at in (pictures, sounds)
        ]
        positions = torch.arange(length).expand(3, -1).contiguous()
        parts.append(
            EncodedPrompts(
                [ids.to("cuda")], [positions.to("cuda")], [length], [pictures.to("cuda")], [sounds.to("cuda")],
                ClipFeatures(features[:1], features[1:]),
            )
        )  # fmt: skip
    return EncodedPrompts.join(parts)
