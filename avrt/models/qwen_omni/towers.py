"""A batch's clips through the two towers of a Qwen-Omni model, each clip once; what a tower takes is its family's.

What the towers need to know of their inputs besides these (windows, positions, lengths) is worked out from sizes that
are on the host, so that nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures
from avrt.transfer import to_device

PATCHES_AT_ONCE = 131_072
"""Of a batch of minutes at two frames a second the tower would fill a GPU; this is two batches of 16 AVQA clips."""


def encode_batch(
    thinker: Any,
    batch: OmniBatch,
    encode_pictures: Callable[[Any, Tensor, Tensor], list[Tensor]],
    encode_sounds: Callable[[Any, Tensor, Sequence[int]], list[Tensor]],
    *,
    run_on_empty: bool,
) -> ClipFeatures:
    """Run the vision and audio towers once over a batch.

    Args:
        thinker: The model.
        batch: Inputs, on the model's device.
        encode_pictures: From the tower, scaled patches of n pictures and videos, and their (n, 3) sizes on the CPU to n
            tensors of tokens.
        encode_sounds: From the tower, (n, 128, F) log-mel of n sounds, and their frames to n tensors of tokens.
        run_on_empty: Run a tower once, on a minimal input where the batch has none for it, because every rank has to
            take part in what all do with its weights. Otherwise many patches are encoded in several calls.
    """
    visual, tower = thinker.model.visual, thinker.model.audio_tower
    vision: list[Tensor | None] = [None] * len(batch)
    audio: list[Tensor | None] = [None] * len(batch)
    idle: list[Tensor] = []
    device = batch.valid.device
    if batch.pixels is not None and batch.grids is not None and batch.scale is not None:
        # The same tower call serves pictures and videos: a picture is a video of one step.
        sizes = batch.grids.prod(-1).tolist()
        encoded: list[Tensor] = []
        start = 0
        for portion in portions(sizes, None if run_on_empty else PATCHES_AT_ONCE):
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
        idle += encode_pictures(visual, blank, torch.tensor([[1, side, side]], device="cpu"))
    if batch.mel is not None and batch.mel_lengths is not None:
        encoded = encode_sounds(tower, batch.mel, batch.mel_lengths.tolist())
        for row, features in zip(batch.mel_rows, encoded, strict=True):
            audio[row] = features
    elif run_on_empty:
        idle += encode_sounds(tower, torch.zeros(1, tower.config.num_mel_bins, 8, device=device), [8])
    return ClipFeatures(vision, audio, [tokens for tokens in idle if tokens.requires_grad])


def portions(sizes: Sequence[int], most: int | None) -> list[slice]:
    """Neighbouring clips that together have no more than `most` patches; a larger one by itself, all if None."""
    found: list[slice] = []
    first = total = 0
    for i, size in enumerate(sizes):
        if most is not None and i > first and total + size > most:
            found.append(slice(first, i))
            first, total = i, 0
        total += size
    return [*found, slice(first, len(sizes))]


def sound_chunks(mel: Tensor, lengths: Sequence[int], chunk: int, chunk_lengths: Tensor) -> Tensor:
    """(chunks, 128, frames): each sound cut into stretches, and what lies behind its end taken for silence.

    Args:
        mel: (n, 128, F), padded.
        lengths: Frames of each.
        chunk: Frames of a stretch.
        chunk_lengths: (chunks,) frames that there really are.
    """
    cut = pad(mel, (0, -mel.shape[-1] % chunk)).reshape(*mel.shape[:2], -1, chunk)
    places = [(i, c) for i, length in enumerate(lengths) for c in range(-(-length // chunk))]
    index = to_device(torch.tensor([i * cut.shape[2] + c for i, c in places], device="cpu"), mel.device)
    chunks = cut.transpose(1, 2).flatten(0, 1).index_select(0, index)
    real = torch.arange(chunk, device=mel.device) < chunk_lengths[:, None]
    return (chunks * real[:, None])[..., : min(chunk, max(lengths))]


def on_device(layout: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A tower's arguments with their tensors on its device."""
    return {name: to_device(v, device) if isinstance(v, Tensor) else v for name, v in layout.items()}
