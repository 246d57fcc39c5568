"""Gemma 4 as transformers itself runs it, to compare our inputs, positions and log-probabilities with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch


def positions(batch: OmniBatch, row: int) -> Tensor:
    """(3, P) positions of one prompt: transformers counts the tokens."""
    ids = batch.prompt_ids[row]
    return torch.arange(len(ids), device=ids.device).expand(3, -1)


def logprobs(model: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
    """(R,) log-probabilities of a completion; NaN behind a media placeholder that the policy sampled.

    In a completion such a token is one like any other, but transformers would look for its media.
    """
    prompt, config = batch.prompt_ids[row], model.config
    media = [config.image_token_id, config.video_token_id, config.audio_token_id]
    sampled = torch.isin(completion, torch.tensor(media, device=completion.device))
    ids = torch.cat([prompt, completion.masked_fill(sampled, config.text_config.pad_token_id)])[None]
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **media_arguments(model, batch, row)).logits
    found = logits[0, len(prompt) - 1 : -1].float().log_softmax(-1).gather(-1, completion[:, None])[:, 0]
    masked: Tensor = found.masked_fill(sampled.cumsum(0) - sampled.long() > 0, torch.nan)
    return masked


def media_arguments(model: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
    """One row's media as transformers takes them."""
    media: dict[str, Any] = {}
    device, values = batch.valid.device, batch.pixel_values
    if row in batch.grid_rows and batch.grids is not None and values is not None:
        place = batch.grid_rows.index(row)
        sizes = batch.grids.prod(-1).tolist()
        frames, rows, columns = batch.grids[place].tolist()
        pixels = values[sum(sizes[:place]) : sum(sizes[: place + 1])].view(frames, rows * columns, -1)
        numbers = torch.arange(rows * columns, device=device)
        places = torch.stack([numbers % columns, numbers // columns], dim=-1).expand(frames, -1, -1)
        if batch.clips[row].frames is None:
            media |= {"pixel_values": pixels, "image_position_ids": places}
        else:
            count = torch.tensor([frames], device=device)
            media |= {"pixel_values_videos": pixels, "video_position_ids": places, "num_frames_per_video": count}
    if row in batch.mel_rows and batch.mel is not None and batch.mel_lengths is not None:
        place = batch.mel_rows.index(row)
        length = int(batch.mel_lengths[place])
        media["input_features"] = batch.mel[place : place + 1, :, :length].transpose(1, 2)
        media["input_features_mask"] = torch.ones(1, length, dtype=torch.bool, device=device)
    return media
