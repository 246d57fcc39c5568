"""The same small questions as elsewhere, on a GPU; without one all is skipped."""

import pytest
import torch

from avrt.data.inputs.batch import collate
from avrt.data.media.clip import Clip
from avrt.policy.policy import load_policy
from avrt.policy.student_options import StudentOptions
from tests.conftest import make_sample

HERE = __name__.rpartition(".")[0]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.module.__name__.startswith(HERE):
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU with CUDA"))


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def student(dtype):
    return load_policy(StudentOptions(source="nano", dtype=dtype)).to("cuda")


@pytest.fixture
def mixed(builder, batch):
    """Text, video with sound, a picture, and sound, on the CPU: the longest prompt is neither first nor last."""
    clip = batch.clips[0]
    media = [((), Clip()), (("video", "audio"), clip), (("image",), Clip(image=clip.frames[2])),
             (("audio",), Clip(audio=clip.audio[:24_000]))]  # fmt: skip
    return collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
