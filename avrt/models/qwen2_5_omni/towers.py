"""Qwen2.5-Omni's towers over a batch: each clip once, all windows and seconds of all clips in one call a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.qwen2_5_omni.positions import audio_token_count
from avrt.models.qwen_omni.towers import encode_batch, on_device, sound_chunks
from avrt.models.transformers_internals import picture_layout, sound_layout


def encode_clips(thinker: Any, batch: OmniBatch, *, run_on_empty: bool = False) -> ClipFeatures:
    """Run the vision and audio towers once over a batch; see `encode_batch`."""
    return encode_batch(thinker, batch, encode_pictures, encode_sounds, run_on_empty=run_on_empty)


def encode_pictures(visual: Any, pixels: Tensor, grids: Tensor) -> list[Tensor]:
    """Run the vision tower.

    Args:
        visual: The tower.
        pixels: (patches, C) of n pictures and videos, scaled.
        grids: (n, 3) their patches in time, height and width, on the CPU.

    Returns:
        n tensors (tokens, H).
    """
    config, sizes = visual.config, tuple((t, h, w) for t, h, w in grids.tolist())
    layout = picture_layout(sizes, config.spatial_merge_size, config.window_size, config.patch_size)
    output = visual(pixels, grid_thw=grids, **on_device(layout, pixels.device))
    tokens = (grids.prod(-1) // config.spatial_merge_size**2).tolist()
    return list(output.pooler_output.split(tokens))


def encode_sounds(tower: Any, mel: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Run the audio tower over n sounds.

    Args:
        tower: The tower.
        mel: (n, 128, F) log-mel, padded.
        lengths: Frames of each.

    Returns:
        n tensors (tokens, H).
    """
    half_chunk = tower.config.n_window
    layout = on_device(sound_layout(tuple(lengths), half_chunk), mel.device)
    padded = sound_chunks(mel.to(tower.dtype), lengths, 2 * half_chunk, layout["chunk_lengths"])
    output = tower(None, padded_feature=padded, **layout)
    return list(output.last_hidden_state.split([audio_token_count(length) for length in lengths]))
