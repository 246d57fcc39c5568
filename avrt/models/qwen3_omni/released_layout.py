"""How Qwen3-Omni is released, and what vLLM expects of it: the thinker inside the omni model, each expert by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import Qwen3OmniMoeConfig

from avrt.models import qwen_layout
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.qwen3_omni.media_inputs import Qwen3OmniInputs
from avrt.models.qwen_inputs import is_interleaved
from avrt.models.qwen_layout import THINKER_PREFIX

_GATE_AND_UP, _DOWN = ".experts.gate_up_proj", ".experts.down_proj"


def wrap_thinker(folder: Path) -> None:
    """Turn a thinker's folder into the layout of the whole omni model without its talker."""
    qwen_layout.wrap_thinker(folder, "Qwen3OmniMoeForConditionalGeneration", Qwen3OmniMoeConfig.model_type)


def parts(decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's parts, and what their parameters' names begin with in the released checkpoints."""
    yield f"{THINKER_PREFIX}model.", decoder.language_model
    yield f"{THINKER_PREFIX}lm_head.", decoder.lm_head


def encoders(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The towers with their projectors, likewise."""
    yield f"{THINKER_PREFIX}visual.", model.model.visual
    yield f"{THINKER_PREFIX}audio_tower.", model.model.audio_tower


def tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A parameter as the released checkpoints have it: experts are one tensor here, and many there.

    Args:
        name: Its name there, the experts' as that of one tensor.
        tensor: The parameter; experts have it as their first dimension. Parts of it are no copies.
    """
    if name.endswith(_GATE_AND_UP):
        experts = name.removesuffix("gate_up_proj")
        for number, expert in enumerate(tensor):
            gate, up = expert.chunk(2)
            yield f"{experts}{number}.gate_proj.weight", gate
            yield f"{experts}{number}.up_proj.weight", up
    elif name.endswith(_DOWN):
        experts = name.removesuffix("down_proj")
        for number, expert in enumerate(tensor):
            yield f"{experts}{number}.down_proj.weight", expert
    else:
        yield name, tensor


def vllm_prompt(inputs: Qwen3OmniInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
    """One prompt as vLLM is asked it: a single placeholder for each medium, and how the processor is to prepare it."""
    clip, ids = prompts.clips[row], inputs.ids
    tokens = prompts.token_ids[row].tolist()
    interleaved = is_interleaved(tokens, ids)
    short: list[int] = []
    for token in tokens:
        if interleaved and token in (ids.audio, ids.audio_bos, ids.audio_eos):
            continue  # vLLM puts them back
        if token not in (ids.image, ids.video, ids.audio) or not short or short[-1] != token:
            short.append(token)
    fps = 1.0 / clip.seconds_per_frame if clip.seconds_per_frame else 1.0
    processor: dict[str, Any] = {"use_audio_in_video": interleaved}
    if clip.frames is not None:
        processor |= {"fps": fps, "second_per_grid_ts": [inputs.temporal / fps]}
    for pictures in (clip.frames, clip.image):
        if pictures is not None:  # they have the model's size already
            processor |= {"min_pixels": 1, "max_pixels": pictures.shape[-1] * pictures.shape[-2]}
    return {"token_ids": short, "fps": fps, "processor": processor}
