"""A short clip with sound, as bytes."""

import pytest

from tests.conftest import make_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "c.mp4", frames=6, sound_seconds=0.6).read_bytes()
