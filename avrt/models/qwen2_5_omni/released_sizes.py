"""The dimensions of the released Qwen2.5-Omni models: what memory and time depend on, known without a download."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerConfig

from avrt.models.qwen2_5_omni.nano import nano_config

RELEASED_SIZES: dict[str, dict[str, int]] = {
    "3B": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
           "num_key_value_heads": 2, "vocab_size": 151_936},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152_064},
}  # fmt: skip
"""The text models; the towers differ in their output's width alone."""


def released_config(size: str, processor: Qwen2_5OmniProcessor | None = None) -> Qwen2_5OmniThinkerConfig:
    """The thinker's configuration at a released size.

    Args:
        size: `3B` or `7B`.
        processor: Take the special tokens' ids from this one, the nano preset's, so that a model of random weights
            can read its prompts. By default they are the released ones.
    """
    text = RELEASED_SIZES[size]
    width = text["hidden_size"]
    config = Qwen2_5OmniThinkerConfig(
        text_config={
            **text,
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
        },
        vision_config={
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": width,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        audio_config={
            "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120, "d_model": 1280,
            "output_dim": width,
        },
        tie_word_embeddings=False,
    )  # fmt: skip
    if processor is not None:
        _take_token_ids(config, nano_config(processor))
    return config


def _take_token_ids(config: Qwen2_5OmniThinkerConfig, other: Any) -> None:
    """Give a configuration the token ids of another."""
    for name in (
        "audio_token_id", "image_token_id", "video_token_id", "audio_start_token_id", "audio_end_token_id",
        "vision_start_token_id", "vision_end_token_id", "user_token_id", "pad_token_id",
    ):  # fmt: skip
        setattr(config, name, getattr(other, name))
