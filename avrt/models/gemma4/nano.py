"""Gemma 4's nano preset: a student of its true architecture with 1.9 million random weights, made without downloads.

Sliding and full layers whose heads differ in width, layers that read another layer's keys and values behind an MLP of
double width, per-layer inputs, tied embeddings, capped logits, conformer. Tokens of a picture cover 28 pixels, so that
shards made for the first family's preset serve this one too. The same seed always gives the same weights.
"""

from __future__ import annotations

import torch
from transformers import (
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4VideoProcessor,
)

from avrt.models.nano_tokenizer import chat_template, nano_tokenizer
from avrt.models.transformers_internals import FULL, SLIDING

_PATCH, _POOLING = 14, 2
_MEL_BANDS = 32
"""A quarter of the released ones: the convolutions over them are most of what a small tower computes."""
_SPECIAL = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "sot_token": "<|turn>",
    "eot_token": "<turn|>",
    "boi_token": "<|image>",
    "image_token": "<|image|>",
    "eoi_token": "<image|>",
    "boa_token": "<|audio>",
    "audio_token": "<|audio|>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}
_INITIALIZER = 0.05


def nano_processor() -> Gemma4Processor:
    """Tokenizer, picture and sound processors of the nano student, equal in every process that makes them."""
    pictures = {"patch_size": _PATCH, "pooling_kernel_size": _POOLING}
    media = {kind: _SPECIAL[f"{kind}_token"] for kind in ("video", "image", "audio")}
    template = chat_template(_SPECIAL["sot_token"], _SPECIAL["eot_token"], media, answers="model")
    return Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(feature_size=_MEL_BANDS),
        image_processor=Gemma4ImageProcessor(**pictures),
        tokenizer=nano_tokenizer(_SPECIAL),
        video_processor=Gemma4VideoProcessor(**pictures),
        chat_template=_SPECIAL["bos_token"] + template,
    )


def nano_config(processor: Gemma4Processor) -> Gemma4Config:
    """The configuration, with the token ids of `processor`."""
    ids = {key: processor.tokenizer.convert_tokens_to_ids(token) for key, token in _SPECIAL.items()}
    vocabulary, hidden = -(-len(processor.tokenizer) // 64) * 64, 128
    return Gemma4Config(
        text_config={
            "vocab_size": vocabulary,
            "vocab_size_per_layer_input": vocabulary,
            "hidden_size": hidden,
            "hidden_size_per_layer_input": 16,
            "intermediate_size": 256,
            "use_double_wide_mlp": True,
            "num_hidden_layers": 6,
            "num_kv_shared_layers": 3,
            "layer_types": [SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL],
            "sliding_window": 64,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "global_head_dim": 64,
            "max_position_embeddings": 16384,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
            "pad_token_id": ids["pad_token"],
            "eos_token_id": ids["eos_token"],
            "bos_token_id": ids["bos_token"],
            "initializer_range": _INITIALIZER,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 16,
            "patch_size": _PATCH,
            "pooling_kernel_size": _POOLING,
            "position_embedding_size": 512,
            "use_clipped_linears": True,
            "initializer_range": _INITIALIZER,
        },
        audio_config={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "subsampling_conv_channels": [_MEL_BANDS, 32],  # the first has to be the number of mel bands
            "output_proj_dims": hidden,
            "initializer_range": _INITIALIZER,
        },
        boi_token_id=ids["boi_token"],
        eoi_token_id=ids["eoi_token"],
        image_token_id=ids["image_token"],
        video_token_id=ids["video_token"],
        boa_token_id=ids["boa_token"],
        eoa_token_index=ids["eoa_token"],
        audio_token_id=ids["audio_token"],
        initializer_range=_INITIALIZER,
        tie_word_embeddings=True,
    )


def nano_model(seed: int = 0) -> tuple[Gemma4ForConditionalGeneration, Gemma4Processor]:
    """The nano student's model in float32 and its processor; the global random state is left as it was."""
    processor = nano_processor()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = Gemma4ForConditionalGeneration(nano_config(processor))
        # transformers begins with ones, which would leave a frozen tower without places
        model.model.vision_tower.patch_embedder.position_embedding_table.normal_(std=0.3)
        for layer in model.model.language_model.layers:
            if not layer.self_attn.is_kv_shared_layer:
                # attention does not divide by the root of the width: that lies in the norm of the keys
                layer.self_attn.k_norm.weight.fill_(layer.self_attn.head_dim**-0.5)
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, end_of_turn(processor.tokenizer)]
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model, processor


def end_of_turn(tokenizer: object) -> int:
    """The token that ends an answer, which is not the tokenizer's end of text."""
    token: int = tokenizer.convert_tokens_to_ids(_SPECIAL["eot_token"])  # type: ignore[attr-defined]
    return token
