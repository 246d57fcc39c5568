"""Qwen2.5-Omni's towers over a batch: each clip encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.transformers_internals import audio_token_counts

PATCHES_AT_ONCE = 131_072
"""Of a batch of minutes at two frames a second the tower would fill a GPU; this is two batches of 16 AVQA clips."""


@torch.no_grad()
def encode_clips(thinker: Any, batch: OmniBatch, *, run_on_empty: bool = False) -> ClipFeatures:
    """Run the vision and audio towers once over a batch.

    Args:
        thinker: A `Qwen2_5OmniThinkerForConditionalGeneration`.
        batch: Inputs, on the model's device.
        run_on_empty: Run a tower once, on a minimal input where the batch has none for it, because under ZeRO-3 every
            rank has to take part in gathering the tower's weights. Otherwise many patches are encoded in several calls.
    """
    vision: list[Tensor | None] = [None] * len(batch)
    audio: list[Tensor | None] = [None] * len(batch)
    visual, tower = thinker.model.visual, thinker.model.audio_tower
    device = batch.valid.device
    if batch.pixels is not None and batch.grids is not None and batch.scale is not None:
        # The same tower call serves pictures and videos: a picture is a video of one step.
        sizes = batch.grids.prod(-1).tolist()
        encoded = []
        start = 0
        for portion in _portions(sizes, None if run_on_empty else PATCHES_AT_ONCE):
            end = start + sum(sizes[portion])
            pixels = batch.scale.apply(batch.pixels[start:end]).to(visual.dtype)
            encoded += thinker.get_video_features(pixels, batch.grids[portion]).pooler_output
            start = end
        for row, features in zip(batch.grid_rows, encoded, strict=True):
            vision[row] = features
    elif run_on_empty:
        side = visual.config.spatial_merge_size
        width = visual.config.in_channels * visual.config.temporal_patch_size * visual.config.patch_size**2
        blank = torch.zeros(side * side, width, device=device, dtype=visual.dtype)
        thinker.get_video_features(blank, torch.tensor([[1, side, side]], device=device))
    if batch.mel is not None and batch.mel_lengths is not None:
        encoded = encode_sounds(thinker, batch.mel, batch.mel_lengths)
        for row, features in zip(batch.mel_rows, encoded, strict=True):
            audio[row] = features
    elif run_on_empty:
        silence = torch.zeros(1, tower.config.num_mel_bins, 8, device=device)
        encode_sounds(thinker, silence, torch.tensor([8], device=device))
    return ClipFeatures(vision, audio)


def _portions(sizes: Sequence[int], most: int | None) -> list[slice]:
    """Neighbouring clips that together have no more than `most` patches; a larger one by itself, all if None."""
    portions: list[slice] = []
    first = total = 0
    for i, size in enumerate(sizes):
        if most is not None and i > first and total + size > most:
            portions.append(slice(first, i))
            first, total = i, 0
        total += size
    return [*portions, slice(first, len(sizes))]


def encode_sounds(thinker: Any, mel: Tensor, lengths: Tensor) -> list[Tensor]:
    """Run the audio tower over (n, 128, F) log-mel; returns n tensors (tokens, H)."""
    mask = torch.arange(mel.shape[-1], device=mel.device) < lengths[:, None]
    tower = thinker.model.audio_tower
    output = thinker.get_audio_features(mel.to(tower.dtype), mask.long())
    return list(output.last_hidden_state.split(audio_token_counts(tower, lengths)))
