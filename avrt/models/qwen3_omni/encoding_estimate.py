"""What encoding clips costs, counted from the towers' shapes: memory at its widest moment, and arithmetic."""

from __future__ import annotations

from typing import Any

from avrt.models.family import EncodingCost

FLOAT32 = 4


def encoding_cost(thinker: Any, vision_tokens: int, audio_tokens: int, element_size: int) -> EncodingCost:
    """Cost of encoding clips that become so many tokens, all in one call of each tower.

    Args:
        thinker: A `Qwen3OmniMoeThinkerForConditionalGeneration`, of which sizes are read alone.
        vision_tokens: Tokens of pictures and videos.
        audio_tokens: Tokens of sound.
        element_size: Bytes of one weight or activation.
    """
    vision, audio = thinker.config.vision_config, thinker.config.audio_config
    patches = vision_tokens * vision.spatial_merge_size**2
    parts = 1 + len(vision.deepstack_visual_indexes)
    width = thinker.config.text_config.hidden_size * element_size
    features = (parts * vision_tokens + audio_tokens) * width
    widest = max(
        _vision_bytes(vision, patches, element_size) + parts * vision_tokens * width,
        _audio_bytes(audio, audio_tokens, element_size),
    )
    # Each weight of a block meets each patch or sound token once: one multiplication, one addition; those of mergers,
    # which join patches to tokens, meet each token. Convolutions have their weights meet many places.
    visual, tower = thinker.model.visual, thinker.model.audio_tower
    operations = (
        2 * _weights(visual.blocks, visual.patch_embed) * patches
        + 2 * _weights(visual.merger, visual.merger_list) * vision_tokens
        + 2 * _weights(tower.layers, tower.conv_out, tower.proj1, tower.proj2) * audio_tokens
        + _convolution_operations(audio, audio_tokens)
    )
    return EncodingCost(features=features, working=widest, operations=operations)


def _weights(*modules: Any) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _convolution_operations(audio: Any, tokens: int) -> int:
    """Three convolutions of 3 x 3 and stride 2 over log-mel; the last one leaves a token's width of an eighth."""
    channels, rows = audio.downsample_hidden_size, audio.num_mel_bins // 2
    first = 4 * tokens * rows * 9 * channels
    second = 2 * tokens * (rows // 2) * 9 * channels**2
    third = tokens * (rows // 4) * 9 * channels**2
    return int(2 * (first + second + third))


def _vision_bytes(vision: Any, patches: int, size: int) -> int:
    """Widest at the rotation of keys, or in the MLP.

    Rotation in float32: queries and keys, the rotated queries, and of the keys the part that stays, the part that turns
    and their sum; in the model's type: queries, keys, values, the norm's output, the block's input, and the patches.
    MLP: before and after the activation; the norm's output, the block's input and what attention added.
    """
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    rotation = 6 * vision.hidden_size * FLOAT32 + 5 * vision.hidden_size * size
    mlp = (2 * vision.intermediate_size + 3 * vision.hidden_size) * size
    return int(patches * (max(rotation, mlp) + pixels * size))


def _audio_bytes(audio: Any, tokens: int, size: int) -> int:
    """Widest in the convolutions, or in the MLP.

    Of `conv_chunksize` stretches of a second at a time the first convolution's output, and that activated: 50 x 64
    places of all channels a second, where 13 tokens remain. MLP: before and after the activation; the norm's output,
    the layer's input and what attention added.
    """
    chunks = -(-tokens // 13)
    places = audio.n_window * (audio.num_mel_bins // 2)
    convolution = min(chunks, audio.conv_chunksize) * 2 * places * audio.downsample_hidden_size * size
    mlp = tokens * (2 * audio.encoder_ffn_dim + 3 * audio.d_model) * size
    return int(max(convolution, mlp) + chunks * 2 * audio.n_window * audio.num_mel_bins * FLOAT32)
