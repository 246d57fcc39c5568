"""Has vLLM's Qwen2.5-Omni put sound within video where transformers does. Two things differ in vLLM 0.32.

Which tokens stand for such a video: both cut the picture's tokens into stretches of two seconds and put two seconds of
sound behind each. Where steps of the video lie further apart than that, a stretch holds none: vLLM then puts its sound
behind the one before. Transformers moves the boundary by one stretch for each token that lies behind it, so that a
step's tokens can be torn apart, and so the model was trained. The trainer compares the prompts' tokens: what this does
not reach is noticed there.

Which features go to which tokens: vLLM sorts them by kind only where picture and sound alternate within what one
forward pass computes. The rest of a video whose beginning is cached or was computed before can be sound, then picture;
it gets the picture's features first.

Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

from typing import Any

import torch

TOKENS, FEATURES = "omni_get_updates_use_audio_in_video", "check_interleaved_audio_video"
"""What is replaced, by its name in vLLM 0.32."""


def order_tokens() -> list[str]:
    """In the process that prepares prompts, put `placeholders` in the place of vLLM's own, where 0.32 has it.

    Returns:
        What this vLLM has not.
    """
    try:
        from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerMultiModalProcessor as Processor
    except ModuleNotFoundError:
        return []  # a vLLM without this model

    if not hasattr(Processor, TOKENS):
        return [TOKENS]
    setattr(Processor, TOKENS, staticmethod(placeholders))
    return []


def order_features() -> list[str]:
    """In a process that runs the model, always sort features by kind.

    Returns:
        What this vLLM has not.
    """
    from vllm.model_executor.models import qwen2_5_omni_thinker

    if not hasattr(qwen2_5_omni_thinker, FEATURES):
        return [FEATURES]
    setattr(qwen2_5_omni_thinker, FEATURES, _has_both)
    return []


def _has_both(is_video: torch.Tensor, is_audio: torch.Tensor, num_video: int, num_audio: int) -> bool:
    return num_video > 0 and num_audio > 0


def placeholders(
    thinker_config: Any, audio_len: int, video_grid_thw: list[int] | torch.Tensor, video_second_per_grid_t: float
) -> list[int]:
    """Tokens that stand for a video with sound.

    Args:
        thinker_config: The thinker's configuration.
        audio_len: Number of the sound's tokens.
        video_grid_thw: The video's patches in time, height and width.
        video_second_per_grid_t: Seconds that one step in time stands for.
    """
    picture, sound = thinker_config.video_token_index, thinker_config.audio_token_index
    per_second = getattr(thinker_config.vision_config, "tokens_per_second", 25)
    size = int(per_second * thinker_config.seconds_per_chunk)
    steps, height, width = (int(side) for side in video_grid_thw)
    each = height * width // thinker_config.vision_config.spatial_merge_size**2
    times = (torch.arange(steps) * video_second_per_grid_t * per_second).long().repeat_interleave(each)
    stretches = [0]
    for time in times.tolist():
        if time >= len(stretches) * size:
            stretches.append(0)
        stretches[-1] += 1
    tokens = []
    for count in stretches:
        tokens += [picture] * count + [sound] * min(size, audio_len)
        audio_len -= min(size, audio_len)
    return [thinker_config.audio_start_token_id, *tokens, *[sound] * audio_len, thinker_config.audio_end_token_id]
