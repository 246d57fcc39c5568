"""A nano student of each family, and prompts of every form that a clip can have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.models.families import FAMILIES
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import StudentOptions
from tests.conftest import make_sample

NANO = [family.nano for family in FAMILIES]
FORMS = ("interleaved", "video and sound", "picture and sound", "sound", "video", "text")


@dataclass(frozen=True)
class Forms:
    """Batches of one row, by form, and of all forms together; a family that cannot interleave lacks that one."""

    rows: dict[str, OmniBatch]

    @property
    def together(self) -> OmniBatch:
        """All rows."""
        return collate(list(self.rows.values()))


def nano_options(source: str, **changes: object) -> StudentOptions:
    """A family's nano student in float32."""
    return StudentOptions(**{"source": source, "dtype": "float32", **changes})


def forms_of(student: Policy, clip: Clip) -> Forms:
    """Every form of a clip with frames and sound."""
    still = None if clip.frames is None else clip.frames[2]
    sound = None if clip.audio is None else clip.audio[:23_456]
    shown = {
        "interleaved": (("video", "audio"), clip),
        "video and sound": (("video", "audio"), clip),
        "picture and sound": (("image", "audio"), Clip(image=still, audio=sound)),
        "sound": (("audio",), Clip(audio=clip.audio)),
        "video": (("video",), clip.part("vision")),
        "text": ((), Clip()),
    }  # fmt: skip
    rows = {}
    for form, (media, part) in shown.items():
        interleaved = form == "interleaved"
        if interleaved and not student.inputs.interleaves:
            continue
        builder = Preprocessor(student.inputs, PromptOptions(audio_in_video=interleaved), targets=True)
        rows[form] = builder.row(make_sample(form, media=media), part)
    return Forms(rows)


@pytest.fixture(scope="session", params=NANO)
def student(request: pytest.FixtureRequest) -> Policy:
    """A family's nano student; tests must not change its weights."""
    return load_policy(nano_options(request.param))


@pytest.fixture(scope="session")
def clip(world: Path) -> Clip:
    """A clip of nano_world, with frames and sound."""
    return decode_members(ShardSet(world / "train").read(3))[1]


@pytest.fixture
def forms(student: Policy, clip: Clip) -> Forms:
    """Every form that the student can be given."""
    return forms_of(student, clip)
