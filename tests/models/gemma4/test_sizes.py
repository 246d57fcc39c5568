"""Shards for Gemma 4 hold pictures of the sizes that its processor would make of them."""

from dataclasses import replace

import pytest
from transformers import Gemma4ImageProcessor, Gemma4VideoProcessor
from transformers.models.gemma4.processing_gemma4 import get_aspect_ratio_preserving_size

from avrt.arguments import OneLineErrors
from avrt.commands import shards as shards_command
from avrt.commands.clip_options import add_clip_options, clip_spec
from avrt.data.media.clip_spec import ClipSpec, FrameBudget
from avrt.data.media.student_frames import STUDENTS
from avrt.data.shards.manifest import check_patch_size
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.errors import AvrtError, BadSampleError
from tests.conftest import make_clip

SPEC = STUDENTS["gemma4"].spec_for(ClipSpec())


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
    """The error of a model that cannot read them names the option."""
    make_clip(tmp_path / "a.mp4", size=(640, 352), frames=10, sound_seconds=None)
    (tmp_path / "q.csv").write_text("id,media,question,choices,answer\na,a.mp4,What?,x;y,A\n")
    shards_command.main(
        ["folder", "--root", str(tmp_path), "--out", str(tmp_path / "out"), "--student", "gemma4", "--workers", "1"]
    )
    shards = ShardSet(tmp_path / "out")
    assert tuple(decode_members(shards.read(0))[1].frames.shape[-2:]) == (288, 528)
    spec = shards.manifest.spec
    assert (spec["patch_size"], spec["resize"], spec["budget"]["max_pixels"]) == (48, "largest", 70 * 48**2)
    check_patch_size(shards.manifest, 48)
    with pytest.raises(AvrtError, match="again with --patch_size 32, as --student qwen3-omni"):
        check_patch_size(shards.manifest, 32)


def test_numbers_that_are_given_win():
    parser = OneLineErrors()
    add_clip_options(parser, ClipSpec())
    taken = clip_spec(parser.parse_args(["--student=gemma4", "--max_pixels=13824", "--patch_size=96"]), ClipSpec())
    assert taken == replace(SPEC, budget=FrameBudget(48**2, 13824), patch_size=96)
    assert clip_spec(parser.parse_args([]), ClipSpec()) == ClipSpec()


def test_other_families_take_as_many_tokens_of_their_own():
    own = ClipSpec(frames=6, budget=FrameBudget(784, 1568))
    assert STUDENTS["qwen2.5-omni"].spec_for(own) == own
    third = STUDENTS["qwen3-omni"].spec_for(own)
    assert (third.frames, third.patch_size, third.budget) == (6, 32, FrameBudget(1024, 2048))
    assert "resize" not in third.to_record()
