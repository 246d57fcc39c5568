"""The nano preset: a student of the real architecture with 1.4 million random weights, made without downloads.

Its tokenizer is trained on a short word list (`avrt.models.nano_tokenizer`), its processor has the real one's parts,
and the same seed always gives the same weights. It is for tests, for the demo, and for trying a configuration on a
laptop.
"""

from __future__ import annotations

import torch
from transformers import (
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from avrt.models.nano_tokenizer import chat_template, nano_tokenizer

_SPECIAL = {
    "pad_token": "<|endoftext|>",
    "im_start_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "image_token": "<|IMAGE|>",
    "video_token": "<|VIDEO|>",
    "audio_token": "<|AUDIO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}


def nano_processor() -> Qwen2_5OmniProcessor:
    """Tokenizer, picture and sound processors of the nano student, equal in every process that makes them."""
    media = {
        "video": "<|vision_bos|><|VIDEO|><|vision_eos|>",
        "image": "<|vision_bos|><|IMAGE|><|vision_eos|>",
        "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>",
    }
    return Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(),
        video_processor=Qwen2VLVideoProcessor(),
        feature_extractor=WhisperFeatureExtractor(feature_size=128, chunk_length=300),
        tokenizer=nano_tokenizer(_SPECIAL),
        chat_template=chat_template("<|im_start|>", "<|im_end|>", media),
    )


def nano_config(processor: Qwen2_5OmniProcessor) -> Qwen2_5OmniThinkerConfig:
    """The thinker's configuration, with the token ids of `processor`."""
    ids = {key: processor.tokenizer.convert_tokens_to_ids(token) for key, token in _SPECIAL.items()}
    hidden = 128
    config = Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": -(-len(processor.tokenizer) // 64) * 64,
            "hidden_size": hidden,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16384,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": False,
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["eos_token"],
            "initializer_range": 0.05,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.05,
        },
        audio_config={
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "d_model": 64,
            "output_dim": hidden,
            "initializer_range": 0.05,
        },
        audio_token_index=ids["audio_token"],
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        user_token_id=processor.tokenizer.encode("user")[0],
        tie_word_embeddings=False,
        initializer_range=0.05,
        pad_token_id=ids["pad_token"],
    )
    config.vision_start_token_id = ids["vision_bos_token"]
    config.vision_end_token_id = ids["vision_eos_token"]
    return config


def nano_thinker(seed: int = 0) -> tuple[Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniProcessor]:
    """The nano student's model in float32 and its processor; the global random state is left as it was."""
    processor = nano_processor()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(nano_config(processor))
    thinker.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    thinker.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return thinker, processor
