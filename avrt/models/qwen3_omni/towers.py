"""Qwen3-Omni's towers over a batch: each clip once, all frames and seconds of all clips in one call a layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.qwen3_omni.positions import audio_token_count
from avrt.models.qwen_omni.towers import encode_batch, on_device, sound_chunks
from avrt.models.transformers_internals import qwen3_picture_layout, qwen3_sound_layout, qwen3_sounds_apart


def encode_clips(thinker: Any, batch: OmniBatch, *, run_on_empty: bool = False) -> ClipFeatures:
    """Run the vision and audio towers once over a batch; see `encode_batch`.

    With `run_on_empty` also the convolutions are called once, which much sound goes through in several parts otherwise.
    """
    sounds = partial(encode_sounds, at_once=run_on_empty)
    return encode_batch(thinker, batch, encode_pictures, sounds, run_on_empty=run_on_empty)


def encode_pictures(visual: Any, pixels: Tensor, grids: Tensor) -> list[Tensor]:
    """Run the vision tower.

    Args:
        visual: The tower.
        pixels: (patches, C) of n pictures and videos, scaled.
        grids: (n, 3) their patches in time, height and width, on the CPU.

    Returns:
        n tensors (tokens, H (1 + D)): what stands for the token, and what each of the first D decoder layers has added
        behind it (DeepStack, arXiv 2406.04334).
    """
    sizes = tuple((t, h, w) for t, h, w in grids.tolist())
    layout = qwen3_picture_layout(sizes, visual.config.spatial_merge_size, visual.num_grid_per_side)
    output = visual(pixels, grid_thw=grids, **on_device(layout, pixels.device))
    tokens = (grids.prod(-1) // visual.config.spatial_merge_size**2).tolist()
    features: Tensor = torch.cat([output.pooler_output, *output.deepstack_features], dim=-1)
    return list(torch.split(features, tokens))


def encode_sounds(tower: Any, mel: Tensor, lengths: Sequence[int], *, at_once: bool = False) -> list[Tensor]:
    """Run the audio tower over n sounds, each of which comes out as it would by itself.

    Args:
        tower: The tower.
        mel: (n, 128, F) log-mel, padded.
        lengths: Frames of each.
        at_once: Run each of its layers once, however much sound there is: on some ranks it may be more than on others.

    Returns:
        n tensors (tokens, H).
    """
    half_chunk, window = tower.config.n_window, tower.config.n_window_infer
    chunk = 2 * half_chunk
    layout = on_device(qwen3_sound_layout(tuple(lengths), half_chunk, window), mel.device)
    padded = sound_chunks(mel.to(tower.dtype), lengths, chunk, layout["chunk_lengths"])
    # By itself a sound of less than a stretch is as wide as it is; the stretches of a longer one are all alike.
    widths = [min(chunk, length) for length in lengths for _ in range(-(-length // chunk))]
    with qwen3_sounds_apart(tower, widths, padded.shape[-1], mel.device, at_once=at_once):
        output = tower(None, padded_feature=padded, **layout)
    return list(output.last_hidden_state.split([audio_token_count(length, chunk) for length in lengths]))
