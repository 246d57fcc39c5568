"""Shards for Gemma 4 hold pictures of the sizes that its processor would make of them."""

import pytest
from transformers import Gemma4ImageProcessor, Gemma4VideoProcessor
from transformers.models.gemma4.processing_gemma4 import get_aspect_ratio_preserving_size

from avrt.commands import shards as shards_command
from avrt.data.media.clip_spec import ClipSpec, FrameBudget
from avrt.data.media.student_frames import STUDENTS
from avrt.data.shards.manifest import check_patch_size
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from tests.conftest import make_clip

SPEC = STUDENTS["gemma4"][1](ClipSpec())


def test_sizes_equal_the_processors():
    video, still = Gemma4VideoProcessor(), Gemma4ImageProcessor()
    for budget, processor in ((SPEC.budget, video), (SPEC.still_budget, still)):
        most = processor.max_soft_tokens * processor.pooling_kernel_size**2
        for height in (1, 37, 48, 224, 360, 719, 1080, 4000):
            for width in (2, 33, 48, 225, 640, 1280, 1921):
                try:
                    wanted = get_aspect_ratio_preserving_size(
                        height, width, processor.patch_size, most, processor.pooling_kernel_size
                    )
                except ValueError:
                    with pytest.raises(BadSampleError, match="do not fit"):
                        SPEC.size(height, width, budget)
                    continue
                assert SPEC.size(height, width, budget) == wanted


def test_one_option_makes_shards_for_the_family(tmp_path):
    """And what is given beside it wins; the error of a model that cannot read shards names the option."""
    make_clip(tmp_path / "a.mp4", size=(640, 352), frames=10, sound_seconds=None)
    (tmp_path / "q.csv").write_text("id,media,question,choices,answer\na,a.mp4,What?,x;y,A\n")
    made = {}
    for name, said in (("gemma", []), ("given", ["--max_pixels", str(6 * 48**2)])):
        out = tmp_path / name
        shards_command.main(
            ["folder", "--root", str(tmp_path), "--out", str(out), "--student", "gemma4", "--workers", "1", *said]
        )
        made[name] = ShardSet(out)
    frames = [decode_members(shards.read(0))[1].frames.shape[-2:] for shards in made.values()]
    assert [tuple(size) for size in frames] == [(288, 528), (48, 144)]
    spec = made["gemma"].manifest.spec
    assert (spec["patch_size"], spec["resize"], spec["budget"]["max_pixels"]) == (48, "largest", 70 * 48**2)
    assert made["given"].manifest.spec["still_budget"] == spec["still_budget"]
    check_patch_size(made["gemma"].manifest, 48)
    with pytest.raises(AvrtError, match="again with --student qwen3-omni"):
        check_patch_size(made["gemma"].manifest, 32)


def test_other_families_take_as_many_tokens_of_their_own():
    own = ClipSpec(frames=6, budget=FrameBudget(784, 1568))
    assert STUDENTS["qwen2.5-omni"][1](own) == own
    third = STUDENTS["qwen3-omni"][1](own)
    assert (third.frames, third.patch_size, third.budget) == (6, 32, FrameBudget(1024, 2048))
    assert "resize" not in third.to_record()
