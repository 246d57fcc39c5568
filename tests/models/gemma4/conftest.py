"""A nano Gemma 4, and clips in every form that it takes."""

import pytest
import torch

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import StudentOptions
from tests.conftest import make_sample

WINDOW = 64


def make_video(seconds: float = 4.8, frames: int = 8, size: tuple[int, int] = (56, 84)) -> Clip:
    """Noise to see and hear."""
    generator = torch.Generator().manual_seed(1)
    return Clip(
        frames=torch.randint(0, 255, (frames, 3, *size), dtype=torch.uint8, generator=generator),
        timestamps=tuple(i * seconds / frames for i in range(frames)),
        seconds_per_frame=seconds / frames,
        audio=torch.randn(int(16_000 * seconds), generator=generator) * 0.1,
    )


def forms() -> dict[tuple[str, ...], Clip]:
    """A clip for each form of media that a prompt may have."""
    clip, other = make_video(), make_video(2.0, 3, (84, 28))
    return {
        ("video", "audio"): clip,
        ("image", "audio"): Clip(image=clip.frames[2], audio=clip.audio[:16_000]),
        ("audio",): Clip(audio=clip.audio[:24_123]),
        ("video",): Clip(other.frames, other.timestamps, other.seconds_per_frame),
        (): Clip(),
    }


@pytest.fixture(scope="session")
def gemma() -> Policy:
    """The nano student; tests must not change its weights."""
    return load_policy(StudentOptions(source="nano-gemma4", dtype="float32"))


@pytest.fixture(scope="session")
def gemma_batch(gemma: Policy) -> OmniBatch:
    """One row of each form; all prompts are longer than the window."""
    builder = Preprocessor(gemma.inputs, PromptOptions(), targets=True)
    rows = [builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(forms().items())]
    batch = collate(rows)
    assert min(map(len, batch.prompt_ids)) > WINDOW
    return batch
