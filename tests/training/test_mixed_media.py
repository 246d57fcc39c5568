"""Ranks whose batches hold different media keep in step: every tower is a collective under ZeRO-3."""

from dataclasses import asdict, replace

import pytest
import torch

from avrt.data.media.clip import Clip, ClipSpec
from avrt.data.shards.members import clip_media, encode_clip
from avrt.data.shards.writer import ShardWriter
from tests.conftest import make_sample
from tests.training.runs import fit


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Eight samples; at each step one of two ranks has no picture, or no sound, or neither."""
    root = tmp_path_factory.mktemp("mixed")
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 255, (8, 3, 56, 56), dtype=torch.uint8, generator=generator)
    sound = torch.randn(16_000, generator=generator) * 0.1
    video = {"frames": frames, "timestamps": tuple(i / 4 for i in range(8)), "seconds_per_frame": 0.25}
    clips = [
        Clip(**video, audio=sound), Clip(audio=sound),
        Clip(image=frames[0]), Clip(audio=sound[:8000]),
        Clip(), Clip(**video),
        Clip(image=frames[3], audio=sound), Clip(),
    ]  # fmt: skip
    with ShardWriter(root / "train", asdict(ClipSpec())) as writer:
        for i, clip in enumerate(clips):
            writer.write(replace(make_sample(f"s{i}"), media=clip_media(clip)), encode_clip(clip))
    return root


@pytest.mark.parametrize(("stage", "zero"), [("sft", 2), ("sft", 3), ("grpo", 3)])
def test_two_ranks_with_different_media_do_not_hang_and_equal_one(mixed, tmp_path, stage, zero):
    common = ("--data.num_workers", 0, "--data.shuffle", "false", "--trainer.max_steps", 4)
    if stage == "grpo":
        common = (*common, "--model.group_size", 2, "--model.rollout.max_new_tokens", 12)
    two = fit(
        stage, mixed, tmp_path / "two", *common, "--data.batch_size", 1, "--trainer.devices", 2,
        "--trainer.strategy.stage", zero,
    )  # fmt: skip
    one = fit(stage, mixed, tmp_path / "one", *common, "--data.batch_size", 2)
    assert len(two) == len(one) == 4
    name = "train/loss" if stage == "sft" else "policy/entropy"
    for step in range(3):
        assert two[step][name] == pytest.approx(one[step][name], abs=1e-4)
