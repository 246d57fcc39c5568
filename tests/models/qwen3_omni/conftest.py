"""A nano student of Qwen3-Omni, and a clip with frames and sound."""

import pytest
import torch

from avrt.data.media.clip import Clip
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions


@pytest.fixture(scope="session")
def qwen3():
    """A nano student; tests must not change its weights."""
    return load_policy(StudentOptions(source="nano-qwen3-omni", dtype="float32"))


@pytest.fixture(scope="session")
def clip():
    """8 frames of 2 x 3 tokens and sound, 3.7 s: steps are at fractions of a position."""
    generator, seconds = torch.Generator().manual_seed(1), 3.7
    return Clip(
        frames=torch.randint(0, 255, (8, 3, 56, 84), dtype=torch.uint8, generator=generator),
        timestamps=tuple(i * seconds / 8 for i in range(8)),
        seconds_per_frame=seconds / 8,
        audio=torch.randn(int(16_000 * seconds) + 57, generator=generator) * 0.1,
    )
