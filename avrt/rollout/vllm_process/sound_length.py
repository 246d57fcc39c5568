"""Has vLLM 0.32's Qwen3-Omni hear as much of a sound as transformers does: one frame for each whole 10 ms.

vLLM pads a sound to whole frames first, so that cached sounds may be put together, and then leaves out the last frames
again, but not those that transformers does. Without both, it prepares a sound as its Qwen2.5-Omni does, and as
transformers; which is exact where a prompt has one sound, and none here has more.

Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

PADDING = ("_get_hf_mm_inputs", "_postprocess_hf_mm_data")
"""What is taken away, by its name in vLLM 0.32."""


def keep_sound_lengths() -> list[str]:
    """In the process that prepares prompts, take both away.

    Returns:
        What this vLLM has not.
    """
    try:
        from vllm.model_executor.models.qwen3_omni_moe_thinker import (
            Qwen3OmniMoeThinkerMultiModalProcessor as Processor,
        )
    except ModuleNotFoundError:
        return []  # a vLLM without this model
    lacking = [f"{Processor.__name__}.{name}" for name in PADDING if name not in vars(Processor)]
    for name in PADDING:
        if name in vars(Processor):
            delattr(Processor, name)
    return lacking
