"""The dimensions of the released Qwen3-Omni: what memory and time depend on, known without a download."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3OmniMoeProcessor, Qwen3OmniMoeThinkerConfig

from avrt.models.qwen3_omni.nano import nano_config

RELEASED_SIZES = ("30B-A3B-Instruct", "30B-A3B-Thinking", "30B-A3B-Captioner")
"""All of one shape."""


def released_config(processor: Qwen3OmniMoeProcessor | None = None) -> Qwen3OmniMoeThinkerConfig:
    """The thinker's configuration at the released size, 30 billion weights of which 3 take part in a token.

    Args:
        processor: Take the special tokens' ids from this one, the nano preset's, so that a model of random weights
            can read its prompts. By default they are the released ones.
    """
    width = 2048
    config = Qwen3OmniMoeThinkerConfig(
        text_config={
            "hidden_size": width, "intermediate_size": 768, "moe_intermediate_size": 768, "num_hidden_layers": 48,
            "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
            "num_experts_per_tok": 8, "norm_topk_prob": True, "vocab_size": 152_064,
            "max_position_embeddings": 65_536,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True,
            },
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "patch_size": 16,
            "out_hidden_size": width, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
        },
        audio_config={
            "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "d_model": 1280,
            "output_dim": width, "downsample_hidden_size": 480,
        },
        audio_token_id=151_675,
        image_token_id=151_655,
        video_token_id=151_656,
        audio_start_token_id=151_669,
        audio_end_token_id=151_670,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        user_token_id=872,
        position_id_per_seconds=13,
        tie_word_embeddings=False,
    )  # fmt: skip
    if processor is not None:
        _take_token_ids(config, nano_config(processor))
    return config


def _take_token_ids(config: Qwen3OmniMoeThinkerConfig, other: Any) -> None:
    """Give a configuration the token ids of another."""
    for name in (
        "audio_token_id", "image_token_id", "video_token_id", "audio_start_token_id", "audio_end_token_id",
        "vision_start_token_id", "vision_end_token_id", "user_token_id", "pad_token_id",
    ):  # fmt: skip
        setattr(config, name, getattr(other, name))
