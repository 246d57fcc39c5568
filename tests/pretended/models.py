"""The released students at their true dimensions, and questions for them, on the pretended device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
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
from avrt.policy.student_options import StudentOptions

SOUND_TOKENS = 250
"""Of a sound of 10 s."""


def released_model(size: str, *, layers: int | None = None) -> Any:
    """A thinker of a released size, weights in bf16 and buffers in float32; to be made within the pretended device.

    Args:
        size: `3B` or `7B`.
        layers: Cut the decoder and both towers to so many layers.
    """
    config = released_config(size, nano_processor())
    if layers is not None:
        cut(config, layers)
    with torch.device("cuda"):
        return Qwen2_5OmniThinkerForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16, attn_implementation="sdpa"
        )


def policy_of(model: Any, *, checkpointing: bool = False) -> Policy:
    """A policy of a model that may have been another's before."""
    model.model.language_model.activation_checkpointing_disable()
    options = StudentOptions(source="released", dtype="bfloat16", gradient_checkpointing=checkpointing)
    return Policy(QwenOmni(), model, nano_processor(), options)


def cut(config: Any, layers: int) -> None:
    """Leave so many layers of the decoder and of each tower; the last of the vision tower's sees whole frames."""
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = config.text_config.layer_types[:layers]
    config.vision_config.depth = layers
    config.vision_config.fullatt_block_indexes = [layers - 1]
    config.audio_config.encoder_layers = layers


def clip_batch(policy: Policy, count: int, *, words: int = 600) -> OmniBatch:
    """Questions on the host about `count` clips of 8 frames, 476 x 476 pixels, and 10 s of sound.

    Args:
        policy: Whose preprocessor makes them.
        count: B.
        words: In the first question; each further one has three more.
    """
    frames = torch.zeros(8, 3, 476, 476, dtype=torch.uint8)
    clip = Clip(frames, tuple(1.25 * i for i in range(8)), 1.25, audio=torch.linspace(-0.1, 0.1, 10 * SAMPLE_RATE))
    preprocessor = Preprocessor(policy.inputs, PromptOptions(audio_in_video=True), answers=True)
    media = (Modality.VIDEO, Modality.AUDIO)
    samples = [Sample(f"q{i}", "see " * (words + 3 * i) + "?", ("a", "b"), 0, media) for i in range(count)]
    return collate([preprocessor.row(sample, clip) for sample in samples])


def encoded_prompts(policy: Policy, lengths: Sequence[int]) -> EncodedPrompts:
    """Prompts of given lengths whose clips are encoded already: half of the tokens picture, 250 sound, the rest text.

    Args:
        policy: The student.
        lengths: Tokens of each prompt, at least 600.
    """
    ids, decoder = policy.inputs.ids, policy.decoder
    width = decoder.language_model.config.hidden_size
    tokens, vision, audio = [], [], []
    for length in lengths:
        pictures = length // 2
        text = [300] * (length - pictures - SOUND_TOKENS)
        prompt = [*text[:20], *[ids.video] * pictures, *[ids.audio] * SOUND_TOKENS, *text[20:]]
        tokens.append(torch.tensor(prompt).to("cuda"))
        vision.append(torch.empty(pictures, width, dtype=torch.bfloat16, device="cuda"))
        audio.append(torch.empty(SOUND_TOKENS, width, dtype=torch.bfloat16, device="cuda"))
    positions = [torch.arange(length).expand(3, -1).contiguous().to("cuda") for length in lengths]
    return EncodedPrompts(tokens, positions, ClipFeatures(vision, audio))
