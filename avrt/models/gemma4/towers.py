"""Gemma 4's towers over a batch: each clip encoded once, frames of one size in one call, so that none is padded.

A video is encoded frame by frame. The projections into the decoder's width belong to what is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from avrt.data.inputs.batch import OmniBatch, PixelScale
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.gemma4.media_inputs import audio_token_count
from avrt.transfer import to_device

PATCHES_AT_ONCE = 32_768
"""More patches are encoded in several calls: these fill a GPU, and take 2 GB of it beside a small model."""
BLANK_SCALE = PixelScale((0.0,), (1.0,))


def encode_clips(model: Any, batch: OmniBatch, *, run_on_empty: bool = False) -> ClipFeatures:
    """Run the vision and audio towers once over a batch.

    Args:
        model: A `Gemma4ForConditionalGeneration`.
        batch: Inputs, on the model's device.
        run_on_empty: Call each tower exactly once, on a minimal input where the batch has none for it, because under
            ZeRO-3 every rank has to take part in gathering the tower's weights. Frames of several sizes are padded.
    """
    vision: list[Tensor | None] = [None] * len(batch)
    audio: list[Tensor | None] = [None] * len(batch)
    idle: list[Tensor] = []
    device = batch.valid.device
    if batch.pixels is not None and batch.grids is not None and batch.scale is not None:
        encoded = encode_pictures(model, batch.pixels, batch.scale, batch.grids.tolist(), in_one_call=run_on_empty)
        for row, features in zip(batch.grid_rows, encoded, strict=True):
            vision[row] = features
    elif run_on_empty:
        config = model.config.vision_config
        side = config.pooling_kernel_size
        blank = torch.zeros(side**2, 3 * config.patch_size**2, device=device, dtype=torch.uint8)
        idle += encode_pictures(model, blank, BLANK_SCALE, [(1, side, side)])
    if batch.mel is not None and batch.mel_lengths is not None:
        encoded = encode_sounds(model, batch.mel, batch.mel_lengths.tolist())
        for row, features in zip(batch.mel_rows, encoded, strict=True):
            audio[row] = features
    elif run_on_empty:
        bands = model.config.audio_config.subsampling_conv_channels[0]
        idle += encode_sounds(model, torch.zeros(1, bands, 8, device=device), [8])
    return ClipFeatures(vision, audio, [tokens for tokens in idle if tokens.requires_grad])


def encode_pictures(
    model: Any, pixels: Tensor, scale: PixelScale, grids: Sequence[Sequence[int]], *, in_one_call: bool = False
) -> list[Tensor]:
    """Run the vision tower and its projection.

    Args:
        model: The model.
        pixels: (patches, C) uint8 of n pictures and videos.
        scale: How the tower wants them; each portion is scaled by itself, since floats take four times as much.
        grids: For each its frames, rows and columns of patches.
        in_one_call: Pad all frames to the largest and encode them together, instead of each size by itself.

    Returns:
        n tensors (tokens, H).
    """

    def scaled(frames: Tensor) -> Tensor:
        return scale.apply(frames.flatten(0, 1)).view(frames.shape)

    ends = torch.tensor([f * r * c for f, r, c in grids], device="cpu").cumsum(0).tolist()
    frames = [
        pixels[end - f * r * c : end].view(f, r * c, -1) for end, (f, r, c) in zip(ends, grids, strict=True)
    ]  # for each clip (frames, patches, C)
    encoded: list[Tensor | None] = [None] * len(grids)
    for clips in [range(len(grids))] if in_one_call else _of_one_size(grids):
        largest = max(frames[i].shape[1] for i in clips)
        shown = torch.cat([pad(frames[i], (0, 0, 0, largest - frames[i].shape[1])) for i in clips])
        places = [_places(*grids[i][1:]) for i in clips]
        padded = [pad(p, (0, 0, 0, largest - len(p)), value=-1) for p in places]
        counts = torch.tensor([len(frames[i]) for i in clips], device="cpu")
        where = to_device(torch.stack(padded).repeat_interleave(counts, 0), pixels.device)
        at_once = len(shown) if in_one_call else max(1, PATCHES_AT_ONCE // largest)
        tokens = torch.cat(
            [
                model.model.embed_vision(model.model.vision_tower(scaled(part), at).last_hidden_state)
                for part, at in zip(torch.split(shown, at_once), torch.split(where, at_once), strict=True)
            ]
        )
        each = model.config.vision_config.pooling_kernel_size**2
        sizes = [len(frames[i]) * frames[i].shape[1] // each for i in clips]
        for i, features in zip(clips, torch.split(tokens, sizes), strict=True):
            encoded[i] = features
    return [features for features in encoded if features is not None]


def _of_one_size(grids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of the clips whose frames have the same rows and columns, size by size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, (_, *size) in enumerate(grids):
        by_size.setdefault(tuple(size), []).append(i)
    yield from by_size.values()


@lru_cache(maxsize=64)
def _places(rows: int, columns: int) -> Tensor:
    """(rows * columns, 2) column and row of each patch, on the CPU."""
    column, row = torch.meshgrid(torch.arange(columns, device="cpu"), torch.arange(rows, device="cpu"), indexing="xy")
    return torch.stack([column, row], dim=-1).flatten(0, 1)


def encode_sounds(model: Any, mel: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Run the audio tower and its projection over n sounds.

    Args:
        model: The model.
        mel: (n, bands, F) log-mel, padded.
        lengths: Frames of each.

    Returns:
        n tensors (tokens, H).
    """
    real = (
        torch.arange(mel.shape[-1], device=mel.device)
        < to_device(torch.tensor(lengths, device="cpu"), mel.device)[:, None]
    )
    padded = model.model.get_audio_features(mel.transpose(1, 2), real).pooler_output
    return [sound[: audio_token_count(length)] for sound, length in zip(padded, lengths, strict=True)]
