"""What encoding clips costs, counted from the towers' shapes: memory at its widest moment, and arithmetic."""

from __future__ import annotations

from typing import Any

from avrt.models.family import EncodingCost

FLOAT32 = 4


def encoding_cost(thinker: Any, vision_tokens: int, audio_tokens: int, element_size: int) -> EncodingCost:
    """Cost of encoding clips that become so many tokens, all in one call of each tower.

    Args:
        thinker: A `Qwen2_5OmniThinkerForConditionalGeneration`, of which sizes are read alone.
        vision_tokens: Tokens of pictures and videos.
        audio_tokens: Tokens of sound.
        element_size: Bytes of one weight or activation.
    """
    vision, audio = thinker.config.vision_config, thinker.config.audio_config
    patches = vision_tokens * vision.spatial_merge_size**2
    frames = audio_tokens * 2  # behind the convolutions; two are averaged to one token
    features = (vision_tokens + audio_tokens) * thinker.config.text_config.hidden_size * element_size
    widest = max(_vision_bytes(vision, patches, element_size), _audio_bytes(audio, frames, element_size))
    # Each weight of a tower meets each of its patches or frames once: one multiplication, one addition.
    vision_weights = sum(p.numel() for p in thinker.model.visual.parameters())
    audio_weights = sum(p.numel() for p in thinker.model.audio_tower.parameters())
    return EncodingCost(
        features=features, working=widest, operations=2 * (vision_weights * patches + audio_weights * frames)
    )


def _vision_bytes(vision: Any, patches: int, size: int) -> int:
    """Widest at the rotation of keys.

    In float32: queries and keys, the rotated queries, and of the keys the part that stays, the part that turns and
    their sum; in the model's type: queries, keys, values, the norm's output, the block's input, and the patches.
    """
    pixels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    rotation = 6 * vision.hidden_size * FLOAT32 + 5 * vision.hidden_size * size
    # at the product: gate's activation, up, product; norm's output, block's input and what attention added
    mlp = (3 * vision.intermediate_size + 3 * vision.hidden_size) * size
    return int(patches * (max(rotation, mlp) + pixels * size))


def _audio_bytes(audio: Any, frames: int, size: int) -> int:
    """Widest in the first convolution, over two log-mel frames for each frame behind the convolutions, or in the MLP.

    First convolution: its output, the activation and that masked. MLP: before and after the activation; the norm's
    output, the layer's input and what attention added.
    """
    convolution = 2 * 3 * audio.d_model * size
    mlp = (2 * audio.encoder_ffn_dim + 3 * audio.d_model) * size
    return int(frames * (max(convolution, mlp) + 2 * audio.num_mel_bins * FLOAT32))
