"""Daily-Omni's own layout, with a generated video, and whole with the real annotation file."""

import json
from collections import Counter

import pytest

from avrt.commands import shards as shards_command
from avrt.data.sample import Modality
from avrt.data.shards.conversion import SourceItem
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.dailyomni import DailyOmni
from avrt.errors import AvrtError, BadSampleError
from tests.conftest import make_clip


def row(video_id="abc", **changes):
    return {
        "Question": "What happens first?",
        "Choice": ["A. a door opens", "B. a dog barks", "C. music", "D. nothing"],
        "Answer": "B",
        "video_id": video_id,
        "Type": "Event Sequence",
        "video_category": "Pets",
        "video_duration": "30s",
        **changes,
    }


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "Videos" / "abc"
    folder.mkdir(parents=True)
    make_clip(folder / "abc_video.mp4")
    rows = [
        row(),
        row("gone"),
        row(Answer="B. a dog barks"),
        row("../../etc"),
        row(Choice=["only one"]),
        {k: v for k, v in row().items() if k != "Type"},
        "nonsense",
    ]
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    return tmp_path


def test_usable_rows_and_one_reason_for_each_other(root):
    items = list(DailyOmni().items(root))
    used = [item for item in items if isinstance(item, SourceItem)]
    assert [item.sample.id for item in used] == ["dailyomni-00000", "dailyomni-00002", "dailyomni-00001"]
    sample = used[0].sample
    assert sample.choices == ("a door opens", "a dog barks", "music", "nothing")
    assert {item.sample.answer for item in used} == {1}
    assert sample.question_type == "Event Sequence"
    assert sample.metadata["duration"] == "30s"
    reasons = {item.where: str(item) for item in items if isinstance(item, BadSampleError)}
    assert "video_id" in reasons["dailyomni-00003"]
    assert "'Type'" in reasons["dailyomni-00005"]
    assert len(items) == 7


def test_command_reports_what_is_missing(root, tmp_path, capsys):
    shards_command.main(["dailyomni", "--root", str(root), "--out", str(tmp_path / "out"), "--max_pixels", "112896"])
    printed = capsys.readouterr().out
    assert "2 samples" in printed
    assert "5 left out" in printed
    assert "media file is missing" in printed


def test_odd_videos_go_through_the_recipe(tmp_path):
    videos = {
        "corrupted": {},
        "silent": {"sound_seconds": None},
        "three": {"frames": 3, "sound_seconds": 0.3},
        "stereo48": {"rate": 48_000},
        "twoseconds": {"sound_seconds": 2.0},
    }
    for name, options in videos.items():
        (tmp_path / "Videos" / name).mkdir(parents=True)
        make_clip(tmp_path / "Videos" / name / f"{name}_video.mp4", **options)
    broken = tmp_path / "Videos" / "corrupted" / "corrupted_video.mp4"
    broken.write_bytes(broken.read_bytes()[1000:])
    (tmp_path / "qa.json").write_text(json.dumps([row(name) for name in videos]))
    shards_command.main(["dailyomni", "--root", str(tmp_path), "--out", str(tmp_path / "out")])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["samples"] == 4
    assert manifest["counts"] == {"video": 4, "audio": 3}
    [reason] = manifest["skipped"].values()
    assert "corrupted_video.mp4" in reason
    notes = {json.dumps(n) for n in manifest["notes"].values()}
    assert notes == {'["no audio stream"]', '["only 3 distinct frames"]'}


def test_folder_without_annotations(tmp_path):
    with pytest.raises(AvrtError, match=r"qa\.json"):
        list(DailyOmni().items(tmp_path))
    (tmp_path / "qa.json").write_text("{")
    with pytest.raises(AvrtError, match="not JSON"):
        list(DailyOmni().items(tmp_path))


def test_real_annotations(shared_data, tmp_path):
    items = list(DailyOmni().items(shared_data / "dailyomni"))
    assert len(items) == 1197
    types = Counter(item.sample.question_type for item in items)
    assert dict(types) == {
        "Event Sequence": 306, "AV Event Alignment": 238, "Context understanding": 193, "Reasoning": 175,
        "Inference": 154, "Comparative": 131,
    }  # fmt: skip
    assert Counter(item.sample.metadata["duration"] for item in items) == {"30s": 647, "60s": 550}
    used = [item for item in items if item.files[Modality.VIDEO].is_file()]
    assert len(used) == 7
    assert len({item.files[Modality.VIDEO] for item in used}) == 2
    options = ["--root", str(shared_data / "dailyomni"), "--out", str(tmp_path / "out")]
    shards_command.main(["dailyomni", *options])
    shards = ShardSet(tmp_path / "out")
    missing = [reason for reason in shards.manifest.skipped.values() if "media file is missing" in reason]
    assert len(missing) == 1190
    assert len(shards) == 7
    assert all(set(s.media) == {Modality.VIDEO, Modality.AUDIO} for s in shards.samples())
    assert len(Counter(s.question_type for s in shards.samples())) > 1
