"""How Qwen2.5-Omni is released, and what vLLM expects of it: the thinker inside the omni model, without its talker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Qwen2_5OmniConfig

from avrt.models import qwen_layout
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.qwen2_5_omni.media_inputs import QwenOmniInputs
from avrt.models.qwen_inputs import is_interleaved
from avrt.models.qwen_layout import THINKER_PREFIX


def wrap_thinker(folder: Path) -> None:
    """Turn a thinker's folder into the layout of the whole omni model without its talker."""
    qwen_layout.wrap_thinker(folder, "Qwen2_5OmniModel", Qwen2_5OmniConfig.model_type)


def parts(decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's parts, and what their parameters' names begin with in the released checkpoints."""
    yield f"{THINKER_PREFIX}model.", decoder.language_model
    yield f"{THINKER_PREFIX}lm_head.", decoder.lm_head


def encoders(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The towers with their projectors, likewise."""
    yield f"{THINKER_PREFIX}visual.", model.model.visual
    yield f"{THINKER_PREFIX}audio_tower.", model.model.audio_tower


def vllm_prompt(inputs: QwenOmniInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
    """One prompt as vLLM is asked it: a single placeholder for each medium, and how the processor is to prepare it."""
    clip, ids = prompts.clips[row], inputs.ids
    tokens = prompts.token_ids[row].tolist()
    interleaved = is_interleaved(tokens, ids)
    short: list[int] = []
    for token in tokens:
        if interleaved and token in (ids.audio, ids.audio_bos, ids.audio_eos):
            continue  # the processor puts them back
        if token not in (ids.image, ids.video, ids.audio) or not short or short[-1] != token:
            short.append(token)
    processor: dict[str, Any] = {"use_audio_in_video": interleaved}
    fps = 1.0 / clip.seconds_per_frame if clip.seconds_per_frame else 1.0
    if clip.frames is not None:
        # Where it interleaves sound, vLLM looks for the second of these instead of the first.
        patch = inputs.temporal
        processor |= {"fps": fps, "second_per_grid_ts": [patch / fps]}
    for pictures in (clip.frames, clip.image):
        if pictures is not None:  # they have the model's size already
            processor |= {"min_pixels": 1, "max_pixels": pictures.shape[-1] * pictures.shape[-2]}
    return {"token_ids": short, "fps": fps, "processor": processor}
