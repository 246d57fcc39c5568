"""Qwen2.5-Omni as transformers itself runs it, to compare our inputs, positions and log-probabilities with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.qwen2_5_omni.positions import SpecialTokens
from avrt.models.qwen_omni import stock


def positions(model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
    """(3, P) positions of one prompt by `get_rope_index`."""
    media = media_arguments(model, processor, batch, row)
    ids = batch.prompt_ids[row][None]
    if media["image_grid_thw"] is None and media["video_grid_thw"] is None:
        # transformers has a path of its own for prompts without pictures; its numbers are plain there, as ours are
        return torch.arange(ids.shape[1], device=ids.device).expand(3, -1)
    lengths = None if media["feature_attention_mask"] is None else media["feature_attention_mask"].sum(-1)
    found: Tensor = model.get_rope_index(
        ids, media["image_grid_thw"], media["video_grid_thw"], torch.ones_like(ids),
        media["use_audio_in_video"], lengths, media["video_second_per_grid"],
    )[0][:, 0]  # fmt: skip
    return found


def logprobs(model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
    """(R,) log-probabilities of a completion; NaN behind a special token that the policy sampled."""
    media = media_arguments(model, processor, batch, row)
    return stock.stock_logprobs(model, processor, batch.prompt_ids[row], media, completion)


def media_arguments(model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
    """One row's media as transformers takes them, its rate and interleaving from the clip and the prompt themselves."""
    return stock.media_arguments(SpecialTokens.of(model.config), processor, batch, row)
