"""What encoding clips costs, counted from the towers' shapes: memory at its widest moment, and arithmetic."""

from __future__ import annotations

from typing import Any

from torch import nn

from avrt.models.family import EncodingCost
from avrt.models.gemma4.towers import PATCHES_AT_ONCE

FLOAT32 = 4
FRAMES_PER_TOKEN = 4
"""Log-mel frames that become one token."""


def encoding_cost(
    model: Any, vision_tokens: int, audio_tokens: int, element_size: int, *, in_one_call: bool = False
) -> EncodingCost:
    """Cost of encoding clips that become so many tokens: sounds in one call, frames in as many as `encode_clips` makes.

    Args:
        model: A `Gemma4ForConditionalGeneration`, of which sizes are read alone.
        vision_tokens: Tokens of pictures and videos.
        audio_tokens: Tokens of sound.
        element_size: Bytes of one weight or activation.
        in_one_call: Whether all frames are encoded in one call, as under ZeRO-3; what pads frames of several sizes is
            left out.
    """
    vision, audio = model.config.vision_config, model.config.audio_config
    patches = vision_tokens * vision.pooling_kernel_size**2
    features = (vision_tokens + audio_tokens) * model.config.text_config.hidden_size * element_size
    at_once = patches if in_one_call else min(patches, PATCHES_AT_ONCE)
    widest = max(_vision_bytes(vision, at_once, element_size), _audio_bytes(audio, audio_tokens, element_size))
    # Each weight of a tower meets each of its patches or tokens once: one multiplication, one addition. The table of
    # places is only looked up.
    tower = model.model.vision_tower
    vision_weights = _weights(tower) - tower.patch_embedder.position_embedding_table.numel()
    audio_weights = _weights(model.model.audio_tower)
    projections = _weights(model.model.embed_vision) * vision_tokens + _weights(model.model.embed_audio) * audio_tokens
    operations = 2 * (vision_weights * patches + audio_weights * audio_tokens + projections)
    return EncodingCost(features=features, working=widest, operations=operations)


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _vision_bytes(vision: Any, patches: int, size: int) -> int:
    """Widest at a norm of queries, or at the MLP's product.

    Norm: its input in float32, that squared, its product with the root and with the weight; in the model's type
    queries, keys, the norm's output, the block's input. MLP: gate's activation, up, product; norm's output, block's
    input and what attention added. Pixels are in float32, their shifted copy too.
    """
    norm = 4 * vision.hidden_size * FLOAT32 + 4 * vision.hidden_size * size
    mlp = (3 * vision.intermediate_size + 3 * vision.hidden_size) * size
    pixels = 3 * vision.patch_size**2
    return int(patches * (max(norm, mlp) + 2 * pixels * FLOAT32))


def _audio_bytes(audio: Any, tokens: int, size: int) -> int:
    """Widest in the first convolution, over two frames and half the mel bands for each token, or in attention.

    Convolution: its output, that normalized, and the activation. Attention, in float32: queries, and keys and values
    laid out block by block with what each block sees before it, each of them once more as the product wants it.
    """
    first, _ = audio.subsampling_conv_channels
    bands = first  # the projection behind the convolutions fits no other number
    convolution = 3 * (FRAMES_PER_TOKEN // 2) * (bands // 2) * first * size
    seen = audio.attention_chunk_size + audio.attention_context_left - 1 + audio.attention_context_right
    repeated = 2 * seen / audio.attention_chunk_size  # keys and values
    attention = audio.hidden_size * FLOAT32 * (1 + 2 * repeated)
    return int(tokens * (max(convolution, attention) + FRAMES_PER_TOKEN * bands * FLOAT32))
