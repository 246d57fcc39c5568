"""A Qwen-Omni model as transformers itself runs it: its media as arguments, and a completion's log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.qwen_omni.inputs import MediaTokens, is_interleaved


def stock_logprobs(
    model: Any, processor: Any, prompt: Tensor, media: dict[str, Any], completion: Tensor, **settings: Any
) -> Tensor:
    """(R,) log-probabilities of a completion; NaN behind a special token that the policy sampled.

    In a completion such a token is one like any other, but transformers would look for its media.

    Args:
        model: The model.
        processor: Its processor.
        prompt: (P,) token ids.
        media: What `media_arguments` gives.
        completion: (R,) token ids.
        **settings: What else the forward pass takes.
    """
    added = processor.tokenizer.added_tokens_decoder.items()
    special = torch.tensor([token_id for token_id, token in added if token.special], device=completion.device)
    sampled = torch.isin(completion, special)
    ids = torch.cat([prompt, completion.masked_fill(sampled, 0)])[None]
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **media, **settings).logits
    found = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).gather(-1, completion[:, None])[:, 0]
    masked: Tensor = found.masked_fill(sampled.cumsum(0) - sampled.long() > 0, torch.nan)
    return masked


def media_arguments(ids: MediaTokens, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
    """One row's media as transformers takes them, its rate and interleaving from the clip and the prompt themselves."""
    media: dict[str, Any] = dict.fromkeys(
        ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "input_features",
         "feature_attention_mask", "video_second_per_grid")
    )  # fmt: skip
    clip, device, values = batch.clips[row], batch.valid.device, batch.pixel_values
    if row in batch.grid_rows and batch.grids is not None and values is not None:
        place = batch.grid_rows.index(row)
        sizes = batch.grids.prod(-1).tolist()
        pixels = values[sum(sizes[:place]) : sum(sizes[: place + 1])]
        kind = (
            ("pixel_values_videos", "video_grid_thw") if clip.frames is not None else ("pixel_values", "image_grid_thw")
        )
        media[kind[0]], media[kind[1]] = pixels, batch.grids[place : place + 1].to(device)
        if clip.seconds_per_frame is not None:
            step = processor.video_processor.temporal_patch_size * clip.seconds_per_frame
            media["video_second_per_grid"] = torch.tensor([step], device=device)
    if row in batch.mel_rows and batch.mel is not None and batch.mel_lengths is not None:
        place = batch.mel_rows.index(row)
        length = int(batch.mel_lengths[place])
        media["input_features"] = batch.mel[place : place + 1, :, :length]
        media["feature_attention_mask"] = torch.ones(1, length, dtype=torch.long, device=device)
    media["use_audio_in_video"] = is_interleaved(batch.prompt_ids[row].tolist(), ids)
    return media
