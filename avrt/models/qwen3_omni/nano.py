"""The nano preset: a student of the real architecture with 1.5 million random weights, made without downloads.

It has experts, features for further decoder layers and the sound's convolutions; but its patches are those of the first
nano student, so that the same shards serve both.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3OmniMoeProcessor,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

from avrt.models.nano_tokenizer import chat_template, nano_tokenizer

_SPECIAL = {
    "pad_token": "<|endoftext|>",
    "im_start_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "audio_token": "<|audio_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>",
    "audio_eos_token": "<|audio_end|>",
}
PATCH = 14


def nano_processor() -> Qwen3OmniMoeProcessor:
    """Tokenizer, picture and sound processors of the nano student, equal in every process that makes them."""
    media = {
        "video": "<|vision_start|><|video_pad|><|vision_end|>",
        "image": "<|vision_start|><|image_pad|><|vision_end|>",
        "audio": "<|audio_start|><|audio_pad|><|audio_end|>",
    }
    return Qwen3OmniMoeProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=PATCH),
        video_processor=Qwen2VLVideoProcessor(patch_size=PATCH),
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=nano_tokenizer(_SPECIAL),
        chat_template=chat_template("<|im_start|>", "<|im_end|>", media),
    )


def nano_config(processor: Qwen3OmniMoeProcessor) -> Qwen3OmniMoeThinkerConfig:
    """The thinker's configuration, with the token ids of `processor`."""
    ids = {key: processor.tokenizer.convert_tokens_to_ids(token) for key, token in _SPECIAL.items()}
    hidden, spread = 128, 0.05
    return Qwen3OmniMoeThinkerConfig(
        text_config={
            "vocab_size": -(-len(processor.tokenizer) // 64) * 64,
            "hidden_size": hidden,
            "intermediate_size": 96,
            "moe_intermediate_size": 96,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 16384,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5], "mrope_interleaved": True,
            },
            "tie_word_embeddings": False,
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["eos_token"],
            "initializer_range": spread,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": PATCH,
            "out_hidden_size": hidden,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": spread,
        },
        audio_config={
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "d_model": 64,
            "output_dim": hidden,
            "downsample_hidden_size": 8,
            "initializer_range": spread,
        },
        audio_token_id=ids["audio_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        user_token_id=processor.tokenizer.encode("user")[0],
        position_id_per_seconds=13,
        tie_word_embeddings=False,
        initializer_range=spread,
        pad_token_id=ids["pad_token"],
    )  # fmt: skip


def nano_thinker(seed: int = 0) -> tuple[Qwen3OmniMoeThinkerForConditionalGeneration, Qwen3OmniMoeProcessor]:
    """The nano student's model in float32 and its processor; the global random state is left as it was."""
    processor = nano_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = Qwen3OmniMoeThinkerForConditionalGeneration(nano_config(processor))
        _let_sound_through(thinker.model.audio_tower)
    thinker.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    thinker.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return thinker, processor


def _let_sound_through(tower: Any) -> None:
    """Draw the convolutions' weights so that they pass a signal on as large as it came (arXiv 1502.01852).

    Drawn like all others, three of them leave a thousandth of a sound beside the places that are added behind them, and
    nothing frozen makes up for that.
    """
    for layer in (tower.conv2d1, tower.conv2d2, tower.conv2d3, tower.conv_out):
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
