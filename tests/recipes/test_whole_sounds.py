"""Benchmarks are heard to the end, by their recipes' own defaults."""

import json

import pytest

from avrt.data.shards.manifest import Manifest
from tests.conftest import make_clip
from tests.recipes.sounds import dated_seconds, heard_seconds, write_sounds


@pytest.mark.parametrize(
    ("timestamp", "seconds"),
    [("00:01:32,00:02:02", 30), ("1:51,2:01;3:14,3:24;5:47,5:57", 30), ("01:00:00,01:00:07", 7), ("", 0)],
)
def test_dates_by_hand(timestamp, seconds):
    assert dated_seconds(timestamp) == seconds


def mmar_row(name, **changes):
    return {
        "id": name, "audio_path": f"./audio/{name}.wav", "question": "What is heard?", "choices": ["a", "b"],
        "answer": "a", "modality": "sound", "category": "Signal Layer", "sub-category": "x", **changes,
    }  # fmt: skip


def test_mmar_is_heard_to_the_end(tmp_path):
    lengths = {"short": 3.5, "ten": 10.0, "median": 20.25, "longest": 56.0, "beyond": 61.0}
    (tmp_path / "MMAR-meta.jsonl").write_text("\n".join(json.dumps(mmar_row(name)) for name in lengths))
    write_sounds(tmp_path, {f"audio/{name}.wav": seconds for name, seconds in lengths.items()})
    heard = heard_seconds("mmar", tmp_path, tmp_path / "out")
    assert heard == pytest.approx({f"mmar-{i:05d}": seconds for i, seconds in enumerate(lengths.values())})
    assert Manifest.load(tmp_path / "out").audio_cut == 0
    heard = heard_seconds("mmar", tmp_path, tmp_path / "ten", "--audio_seconds", "10")
    assert sorted(heard.values()) == pytest.approx([3.5, 10, 10, 10, 10])
    cut = Manifest.load(tmp_path / "ten")
    assert cut.audio_cut == 3
    assert cut.notes["mmar-00003"] == ["audio cut at 10 s of 56.0"]


def test_real_rows_of_mmar_are_heard_to_the_end(shared_data, tmp_path):
    """Every 16th of the real rows, and the longest, with sounds of the lengths that their dates say."""
    rows = [json.loads(line) for line in (shared_data / "mmar" / "MMAR-meta.jsonl").read_text().splitlines()]
    dated = {row["audio_path"]: dated_seconds(row["timestamp"]) for row in rows}
    assert sum(seconds > 10 for seconds in dated.values()) > 800
    longest = max(dated, key=lambda path: dated[path])
    chosen = [row for i, row in enumerate(rows) if dated[row["audio_path"]] and i % 16 == 0]
    chosen += [row for row in rows if row["audio_path"] == longest and row not in chosen]
    (tmp_path / "MMAR-meta.jsonl").write_text("\n".join(map(json.dumps, chosen)))
    write_sounds(tmp_path, {row["audio_path"]: dated[row["audio_path"]] for row in chosen})
    heard = heard_seconds("mmar", tmp_path, tmp_path / "out")
    assert len(heard) == len(chosen) > 60
    assert sorted(heard.values()) == pytest.approx(sorted(dated[row["audio_path"]] for row in chosen))
    assert max(heard.values()) == dated[longest] > 50


LENGTHS = (2.5, 10.0, 30.0, 47.25, 61.0)


def mmau(root, rows):
    """Write rows of MMAU with sounds of lengths that go round; how long each sound is, sorted."""
    (root / "mmau-test-mini.json").write_text(json.dumps(rows))
    lengths = {row["audio_id"]: LENGTHS[i % len(LENGTHS)] for i, row in enumerate(rows)}
    write_sounds(root, lengths)
    return sorted(lengths.values())


def test_mmau_is_heard_to_the_end(tmp_path):
    row = {
        "question": "Who speaks?", "choices": ["Man", "Woman"], "answer": "Man", "dataset": "AudioSet", "task": "sound",
        "split": "test-mini", "category": "Reasoning", "sub-category": "x", "difficulty": "easy",
    }  # fmt: skip
    rows = [{**row, "id": f"a{i}", "audio_id": f"./test-mini-audios/a{i}.wav"} for i in range(5)]
    lengths = mmau(tmp_path, rows)
    assert sorted(heard_seconds("mmau", tmp_path, tmp_path / "out").values()) == pytest.approx(lengths)
    assert Manifest.load(tmp_path / "out").audio_cut == 0


def test_real_rows_of_mmau_are_heard_to_the_end(shared_data, tmp_path):
    rows = json.loads((shared_data / "mmau" / "mmau-test-mini.json").read_text())
    lengths = mmau(tmp_path, rows[::25])
    assert len(lengths) == 40
    assert sorted(heard_seconds("mmau", tmp_path, tmp_path / "out").values()) == pytest.approx(lengths)


def test_daily_omni_is_heard_to_the_end(tmp_path):
    videos = {"abc": 30, "def": 61}
    rows = []
    for name, seconds in videos.items():
        (tmp_path / "Videos" / name).mkdir(parents=True)
        clip = tmp_path / "Videos" / name / f"{name}_video.mp4"
        make_clip(clip, frames=2 * seconds, fps=2, sound_seconds=seconds, rate=16_000, layout="mono")
        rows.append(
            {"Question": "What?", "Choice": ["A. x", "B. y", "C. z", "D. w"], "Answer": "B", "video_id": name,
             "Type": "Inference", "video_category": "Pets", "video_duration": f"{seconds}s"}
        )  # fmt: skip
    (tmp_path / "qa.json").write_text(json.dumps(rows))
    heard = heard_seconds("dailyomni", tmp_path, tmp_path / "out")
    assert list(heard.values()) == pytest.approx([30, 61], abs=0.1)
    manifest = Manifest.load(tmp_path / "out")
    assert (manifest.audio_cut, manifest.spec["frames"], manifest.spec["audio_seconds"]) == (0, 8, None)


def test_the_real_videos_of_daily_omni_are_heard_to_the_end(shared_data, tmp_path):
    heard = heard_seconds("dailyomni", shared_data / "dailyomni", tmp_path / "out")
    assert len(heard) == 7
    assert list(heard.values()) == pytest.approx([30.0] * 7, abs=0.001)
