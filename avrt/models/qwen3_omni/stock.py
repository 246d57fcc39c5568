"""Qwen3-Omni as transformers itself runs it, to compare our inputs, positions and log-probabilities with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.models.qwen3_omni.positions import SpecialTokens
from avrt.models.qwen_omni.stock import media_arguments, stock_logprobs


def positions(model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
    """(3, P) positions of one prompt by `get_rope_index`, each at the token that it is for."""
    return _positions(model, batch, row, media_of(model, processor, batch, row))


def media_of(model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
    """One row's media as transformers takes them, its rate and interleaving from the clip and the prompt themselves."""
    return media_arguments(SpecialTokens.of(model.config), processor, batch, row)


def logprobs(model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
    """(R,) log-probabilities of a completion; NaN behind a special token that the policy sampled."""
    media = media_of(model, processor, batch, row)
    prompt = _positions(model, batch, row, media)
    following = torch.arange(len(completion), device=prompt.device) + prompt.max() + 1
    # Positions are given, as `generate` gives them: by itself a forward pass takes them from the order of `_positions`.
    placed = torch.cat([prompt, following.expand(3, -1)], dim=1)[:, None]
    return stock_logprobs(model, processor, batch.prompt_ids[row], media, completion, position_ids=placed)


def _positions(model: Any, batch: OmniBatch, row: int, media: dict[str, Any]) -> Tensor:
    ids = batch.prompt_ids[row][None]
    lengths = None if media["feature_attention_mask"] is None else media["feature_attention_mask"].sum(-1)
    found: Tensor = model.get_rope_index(
        ids, media["image_grid_thw"], media["video_grid_thw"], torch.ones_like(ids),
        media["use_audio_in_video"], lengths, media["video_second_per_grid"],
    )[0][:, 0]  # fmt: skip
    return _in_step(found, ids[0], media, SpecialTokens.of(model.config)) if media["use_audio_in_video"] else found


def _in_step(found: Tensor, tokens: Tensor, media: dict[str, Any], ids: SpecialTokens) -> Tensor:
    """Interleaved positions in the order of the tokens; see `avrt.models.qwen3_omni.positions`.

    `get_rope_index` merges pictures and sounds by float32 times, which says whose each column is; the tokens were
    merged by float64 times. Nearly always that is the same order, and nothing moves.
    """
    is_video, is_audio = tokens == ids.video, tokens == ids.audio
    places = (is_video | is_audio).nonzero()[:, 0]
    steps, height, width = media["video_grid_thw"][0].tolist()
    each = height * width // ids.merge_size**2
    block = found[:, places]
    begin = block[0].min()
    seconds = media["video_second_per_grid"][0].float()
    video = torch.arange(steps, device=found.device) * seconds * ids.positions_per_second + begin
    audio = torch.arange(int(is_audio.sum()), device=found.device) + begin
    merged = torch.cat([video.repeat_interleave(each), audio]).sort(stable=True).indices
    by_kind = torch.empty_like(block).index_copy_(1, merged, block)  # all pictures' columns, then all sounds'
    ordered = found.clone()
    ordered[:, is_video], ordered[:, is_audio] = by_kind[:, : steps * each], by_kind[:, steps * each :]
    return ordered
