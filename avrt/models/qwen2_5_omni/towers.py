"""Qwen2.5-Omni's towers over a batch: each clip once, all windows and seconds of all clips in one call a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.qwen2_5_omni.positions import audio_token_count
from avrt.models.qwen_towers import encode_batch, on_device, sound_chunks
from avrt.models.transformers_internals import picture_layout, sound_layout

PATCHES_AT_ONCE = 131_072
"""Of a batch of minutes at two frames a second the tower would fill a GPU; this is two batches of 16 AVQA clips."""


def encode_clips(thinker: Any, batch: OmniBatch, *, run_on_empty: bool = False) -> ClipFeatures:
    """Run the vision and audio towers once over a batch.

    Args:
        thinker: A `Qwen2_5OmniThinkerForConditionalGeneration`.
        batch: Inputs, on the model's device.
        run_on_empty: Run a tower once, on a minimal input where the batch has none for it, because every rank has to
            take part in what all do with its weights. Otherwise many patches are encoded in several calls.
    """
    visual, tower = thinker.model.visual, thinker.model.audio_tower
    return encode_batch(
        visual,
        batch,
        lambda pixels, grids: encode_pictures(visual, pixels, grids),
        lambda mel, lengths: encode_sounds(tower, mel, lengths),
        tower.config.num_mel_bins,
        patches_at_once=PATCHES_AT_ONCE,
        run_on_empty=run_on_empty,
    )


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
