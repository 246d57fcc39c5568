"""Prompts for the engines: those of one length hide what padding does, so there are also four of different lengths."""

import pytest

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from tests.conftest import make_sample


@pytest.fixture
def prompts(nano, batch):
    """Four questions on video with sound; all have the same number of tokens."""
    return nano.encode(batch)


@pytest.fixture
def uneven(nano, builder, batch):
    """Text, video with sound, a picture, and sound: the longest prompt is neither first nor last."""
    clip = batch.clips[0]
    media = [((), Clip()), (("video", "audio"), clip), (("image",), Clip(image=clip.frames[2])),
             (("audio",), Clip(audio=clip.audio[:24_000]))]  # fmt: skip
    rows = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    assert len({len(ids) for ids in rows.prompt_ids}) == 4
    return nano.encode(rows)
