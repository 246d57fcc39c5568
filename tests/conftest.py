"""Fixtures: real clips made on the spot, a nano student, shards of a small nano_world."""

from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import pytest
import torch

from avrt.commands import shards as shards_command
from avrt.data.inputs.batch import OmniBatch, collate
from avrt.data.inputs.preprocessor import Preprocessor
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.media.clip import Clip
from avrt.data.media.encode import write_clip
from avrt.data.sample import Sample
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import StudentOptions
from tests.warm import WarmCommands

torch.set_num_threads(1)
WARM = WarmCommands()
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every later collection of garbage, also in forked processes."""
    gc.collect()
    gc.freeze()


def make_clip(
    path: Path,
    *,
    frames: int = 40,
    fps: int = 10,
    size: tuple[int, int] = (96, 64),
    sound_seconds: float | None = 4.0,
    rate: int = 44_100,
    layout: str = "stereo",
    tone: float = 440.0,
    left_gain: float = 1.0,
) -> Path:
    """Write a real clip; frame i has brightness 5 * i, so that a decoded frame tells its number."""
    width, height = size
    pictures = [np.full((height, width, 3), min(250, 5 * i), np.uint8) for i in range(frames)]
    sound = None
    if sound_seconds:
        wave = 0.5 * np.sin(2 * np.pi * tone * np.arange(int(sound_seconds * rate)) / rate)
        sound = np.repeat(wave[None], 1 if layout == "mono" else 2, axis=0).astype(np.float32)
        sound[0] *= left_gain
    write_clip(path, pictures, sound, fps=fps, video_options={"crf": "10", "threads": "1"}, rate=rate)
    return path


def make_sample(name: str = "q", **changes: object) -> Sample:
    """A valid sample; keyword arguments replace fields."""
    fields: dict = {
        "id": name,
        "question": "Which thing is seen?",
        "choices": ("a ball", "a box", "a star"),
        "answer": 1,
        "trace": "<think>The frames show a box.</think><answer>B</answer>",
    }
    return Sample(**{**fields, **changes})


def stock_media(batch: OmniBatch, row: int) -> dict:
    """One nano_world row's video with interleaved sound, as transformers' own forward pass and `generate` take them."""
    patches = batch.grids.prod(-1).tolist()
    start = sum(patches[:row])
    return {
        "pixel_values_videos": batch.pixel_values[start : start + patches[row]],
        "video_grid_thw": batch.grids[row : row + 1],
        "input_features": batch.mel[row : row + 1],
        "feature_attention_mask": (torch.arange(batch.mel.shape[-1]) < batch.mel_lengths[row]).long()[None],
        "use_audio_in_video": True,
        "video_second_per_grid": torch.tensor([2 * batch.clips[row].seconds_per_frame]),
    }


def avrt(
    *arguments: object, timeout: float = 900, check: bool = True, cwd: Path | None = None
) -> subprocess.CompletedProcess:
    """Run the real command in a process of its own."""
    done = WARM.run([str(argument) for argument in arguments], timeout=timeout, cwd=cwd)
    assert not check or done.returncode == 0, f"{done.args}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done


@pytest.fixture(scope="session")
def nano() -> Policy:
    """A nano student; tests must not change its weights."""
    return load_policy(StudentOptions(source="nano", dtype="float32"))


@pytest.fixture
def builder(nano: Policy) -> Preprocessor:
    """Builds batches with targets for the nano student, sound interleaved into video."""
    return Preprocessor(nano.inputs, PromptOptions(audio_in_video=True), targets=True)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small nano_world: folders `train` (24 clips, 48 questions), `val` and `test` (4 clips, 8 questions)."""
    # The mutation run has it written once for all its processes.
    shared = os.environ.get("AVRT_TEST_WORLD")
    root = Path(shared) if shared else tmp_path_factory.mktemp("world")
    if (root / "test" / "manifest.json").exists():
        return root
    for split, clips in (("train", 24), ("val", 4), ("test", 4)):
        options = ["--root", root / "clips", "--out", root / split, "--split", split, "--clips", clips]
        shards_command.main(
            ["nano_world", *map(str, options), "--questions_per_clip", "2", "--samples_per_shard", "20"]
        )
    return root


@pytest.fixture
def batch(builder: Preprocessor, world: Path):
    """Four real samples of nano_world as one batch."""
    shards = ShardSet(world / "train")
    return collate([builder.row(*decode_members(shards.read(i))) for i in (0, 5, 11, 20)])


@pytest.fixture
def mixed(builder: Preprocessor, batch: OmniBatch) -> OmniBatch:
    """Text, video with sound, a picture, and sound: the longest prompt is neither first nor last."""
    clip = batch.clips[0]
    media = [((), Clip()), (("video", "audio"), clip), (("image",), Clip(image=clip.frames[2])),
             (("audio",), Clip(audio=clip.audio[:24_000]))]  # fmt: skip
    rows = collate([builder.row(make_sample(str(i), media=m), c) for i, (m, c) in enumerate(media)])
    assert len({len(ids) for ids in rows.prompt_ids}) == 4
    return rows


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips and annotation files beside the repository, where they are."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no ../shared/data here; the behaviour is also tested on generated clips")
    return SHARED_DATA
