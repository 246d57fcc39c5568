"""Encode each clip once: tower outputs of a batch, and their place among the token embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.models.qwen2_5_omni.positions import TokenIds

PATCHES_AT_ONCE = 131_072
"""Of a batch of minutes at two frames a second the tower would fill a GPU; this is two batches of 16 AVQA clips."""


@dataclass(frozen=True)
class ClipFeatures:
    """Tower outputs of B clips.

    The towers are frozen, so these are the same for every answer, for the policy and for the reference.

    Attributes:
        vision: For each row its picture or video tokens (n, H), or None.
        audio: For each row its sound tokens (n, H), or None.
    """

    vision: list[Tensor | None]
    audio: list[Tensor | None]

    def rows(self, indices: Sequence[int]) -> ClipFeatures:
        """The features of some rows, in that order; a row may occur several times, without a copy."""
        return ClipFeatures([self.vision[i] for i in indices], [self.audio[i] for i in indices])


@torch.no_grad()
def encode_clips(thinker: Any, batch: OmniBatch, *, always: bool = False) -> ClipFeatures:
    """Run the vision and audio towers once over a batch.

    Args:
        thinker: A `Qwen2_5OmniThinkerForConditionalGeneration`.
        batch: Inputs, on the model's device.
        always: Run a tower once, on a minimal input where the batch has none for it, because under ZeRO-3 every rank
            has to take part in gathering the tower's weights. Otherwise many patches are encoded in several calls.
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
        for portion in _portions(sizes, None if always else PATCHES_AT_ONCE):
            end = start + sum(sizes[portion])
            pixels = batch.scale.apply(batch.pixels[start:end]).to(visual.dtype)
            encoded += thinker.get_video_features(pixels, batch.grids[portion]).pooler_output
            start = end
        for row, features in zip(batch.grid_rows, encoded, strict=True):
            vision[row] = features
    elif always:
        side = visual.config.spatial_merge_size
        width = visual.config.in_channels * visual.config.temporal_patch_size * visual.config.patch_size**2
        blank = torch.zeros(side * side, width, device=device, dtype=visual.dtype)
        thinker.get_video_features(blank, torch.tensor([[1, side, side]], device=device))
    if batch.mel is not None and batch.mel_lengths is not None:
        encoded = encode_sounds(thinker, batch.mel, batch.mel_lengths)
        for row, features in zip(batch.mel_rows, encoded, strict=True):
            audio[row] = features
    elif always:
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
    _, tokens = tower._get_feat_extract_output_lengths(lengths)
    return list(output.last_hidden_state.split(tokens.tolist()))


def embed_tokens(
    embedding: Callable[[Tensor], Tensor], token_ids: Tensor, in_prompt: Tensor, features: ClipFeatures, ids: TokenIds
) -> Tensor:
    """Token embeddings (B, T, H) with each row's clip features at its placeholders.

    Args:
        embedding: The token embedding, (B, T) -> (B, T, H).
        token_ids: (B, T), padded as the caller likes.
        in_prompt: (B, T) bool, true at prompt tokens: a policy may well sample a placeholder into its answer, where it
            is a token like any other.
        features: One entry per row.
        ids: The model's special tokens.

    Raises:
        RuntimeError: If placeholders and features differ in number.
    """
    embeddings = embedding(token_ids)
    for mask, encoded in (
        (in_prompt & ((token_ids == ids.video) | (token_ids == ids.image)), features.vision),
        (in_prompt & (token_ids == ids.audio), features.audio),
    ):
        present = [rows for rows in encoded if rows is not None]
        source = torch.cat(present).to(embeddings.dtype) if present else embeddings.new_zeros(0, embeddings.shape[-1])
        if int(mask.sum()) != len(source):
            raise RuntimeError(f"{int(mask.sum())} placeholders for {len(source)} clip features")
        embeddings = embeddings.masked_scatter(mask[..., None], source)
    return embeddings
