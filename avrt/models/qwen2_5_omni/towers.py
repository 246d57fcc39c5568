"""Qwen2.5-Omni's towers over a batch: each clip encoded once, all windows and seconds of all clips in one call a layer.

What the towers need to know of their inputs besides these (windows, positions, lengths) is worked out from sizes that
are on the host, so that nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.qwen2_5_omni.positions import audio_token_count
from avrt.models.transformers_internals import picture_layout, sound_layout
from avrt.transfer import to_device

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
    vision: list[Tensor | None] = [None] * len(batch)
    audio: list[Tensor | None] = [None] * len(batch)
    visual, tower = thinker.model.visual, thinker.model.audio_tower
    device = batch.valid.device
    if batch.pixels is not None and batch.grids is not None and batch.scale is not None:
        # The same tower call serves pictures and videos: a picture is a video of one step.
        sizes = batch.grids.prod(-1).tolist()
        encoded: list[Tensor] = []
        start = 0
        for portion in _portions(sizes, None if run_on_empty else PATCHES_AT_ONCE):
            end = start + sum(sizes[portion])
            pixels = batch.scale.apply(batch.pixels[start:end]).to(visual.dtype)
            encoded += encode_pictures(visual, pixels, batch.grids[portion])
            start = end
        for row, features in zip(batch.grid_rows, encoded, strict=True):
            vision[row] = features
    elif run_on_empty:
        side = visual.config.spatial_merge_size
        width = visual.config.in_channels * visual.config.temporal_patch_size * visual.config.patch_size**2
        blank = torch.zeros(side * side, width, device=device, dtype=visual.dtype)
        encode_pictures(visual, blank, torch.tensor([[1, side, side]], device="cpu"))
    if batch.mel is not None and batch.mel_lengths is not None:
        encoded = encode_sounds(tower, batch.mel, batch.mel_lengths.tolist())
        for row, features in zip(batch.mel_rows, encoded, strict=True):
            audio[row] = features
    elif run_on_empty:
        encode_sounds(tower, torch.zeros(1, tower.config.num_mel_bins, 8, device=device), [8])
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
    on_device = {name: to_device(v, pixels.device) if isinstance(v, Tensor) else v for name, v in layout.items()}
    output = visual(pixels, grid_thw=grids, **on_device)
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
    chunk = 2 * tower.config.n_window
    layout = sound_layout(tuple(lengths), tower.config.n_window)
    on_device = {name: to_device(v, mel.device) if isinstance(v, Tensor) else v for name, v in layout.items()}
    # (chunks, 128, frames): each sound cut into seconds, and what lies behind its end taken for silence
    cut = pad(mel.to(tower.dtype), (0, -mel.shape[-1] % chunk)).reshape(*mel.shape[:2], -1, chunk)
    places = [(i, c) for i, length in enumerate(lengths) for c in range(-(-length // chunk))]
    index = to_device(torch.tensor([i * cut.shape[2] + c for i, c in places], device="cpu"), mel.device)
    chunks = cut.transpose(1, 2).flatten(0, 1).index_select(0, index)
    real = torch.arange(chunk, device=mel.device) < on_device["chunk_lengths"][:, None]
    widest = min(chunk, max(lengths))
    padded = (chunks * real[:, None])[..., :widest]
    output = tower(None, padded_feature=padded, **on_device)
    return list(output.last_hidden_state.split([audio_token_count(length) for length in lengths]))
