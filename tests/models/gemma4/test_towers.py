"""Clips encoded once equal transformers' own features, whatever they are encoded with."""

import torch

from avrt.data.inputs.batch import collate
from avrt.models.gemma4 import towers
from avrt.models.gemma4.stock import media_arguments


def stock_features(gemma, batch, row):
    media, model = media_arguments(gemma.model, batch, row), gemma.model.model
    vision = audio = None
    if "pixel_values_videos" in media:
        vision = model.get_video_features(
            media["pixel_values_videos"], media["video_position_ids"], media["num_frames_per_video"]
        ).pooler_output[0]
    if "pixel_values" in media:
        vision = model.get_image_features(media["pixel_values"], media["image_position_ids"]).pooler_output[0]
    if "input_features" in media:
        audio = model.get_audio_features(media["input_features"], media["input_features_mask"]).pooler_output[0]
    return vision, audio


@torch.no_grad()
def test_features_equal_transformers_own(gemma, gemma_batch, monkeypatch):
    """Together, all frames in one padded call as under ZeRO-3, and in portions."""
    expected = [stock_features(gemma, gemma_batch, row) for row in range(len(gemma_batch))]
    ways = [
        towers.encode_clips(gemma.model, gemma_batch),
        towers.encode_clips(gemma.model, gemma_batch, run_on_empty=True),
    ]
    monkeypatch.setattr(towers, "PATCHES_AT_ONCE", 50)
    ways.append(towers.encode_clips(gemma.model, gemma_batch))
    for features in ways:
        for row, pair in enumerate(expected):
            for found, wanted in zip((features.vision[row], features.audio[row]), pair, strict=True):
                assert (found is None) == (wanted is None)
                assert found is None or torch.allclose(found, wanted, atol=1e-5)


def test_each_tower_runs_once_for_every_batch_under_zero_3(gemma, gemma_batch):
    """Otherwise ranks would wait for each other forever."""
    calls = []
    parts = gemma.family.towers(gemma.model)
    hooks = [part.register_forward_hook(lambda module, *_: calls.append(module)) for part in parts]
    empty = collate([gemma_batch])
    empty.pixels = empty.grids = empty.mel = None
    try:
        for batch in (gemma_batch, empty):
            calls.clear()
            towers.encode_clips(gemma.model, batch, run_on_empty=True)
            assert sorted(map(id, calls)) == sorted(map(id, parts))
    finally:
        for hook in hooks:
            hook.remove()
