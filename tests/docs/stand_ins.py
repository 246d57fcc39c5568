"""What a reader of the documentation brings along: data sets in their real layouts, a clip, the released students."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from avrt.data_recipes.nano_world import SOUNDS, THINGS, Scene, render
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions

CHOICES = ("the true one", "another one", "a third one", "none of them")
"""What the tests' teachers know how to answer."""
RELEASED = ("Qwen/Qwen2.5-Omni-3B", "Qwen/Qwen2.5-Omni-7B")
_REVISION = "0" * 40


def data_sets(root: Path) -> None:
    """Write small stand-ins: `AVQA`, `Daily-Omni`, `OmniBench`, `MMAR`, and `clip.mp4`."""
    scenes = _scenes()
    _avqa(root / "AVQA", scenes)
    _avrt_20k(root / "AVQA")
    _daily_omni(root / "Daily-Omni", scenes)
    _omnibench(root / "OmniBench")
    _mmar(root / "MMAR")
    shutil.copy(root / "AVQA" / "videos" / "train0_000030.mp4", root / "clip.mp4")


def released_students(hub: Path) -> None:
    """Put students of the released architecture where the model hub's cache would have the released ones."""
    for name in RELEASED:
        folder = hub / f"models--{name.replace('/', '--')}"
        snapshot = folder / "snapshots" / _REVISION
        export_policy(load_policy(StudentOptions(source="nano", dtype="float32")), snapshot)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(_REVISION)


def _scenes() -> Iterator[Scene]:
    """Scenes that differ in everything, so that no clip is found among others."""
    pairs = [(thing, sound) for thing in THINGS for sound in SOUNDS]
    return (Scene(thing, sound, (7, i)) for i, (thing, sound) in enumerate(cycle(pairs)))


def _turned(i: int) -> tuple[list[str], int]:
    """The choices in another order, and where the right one is now."""
    places = [(k + i) % len(CHOICES) for k in range(len(CHOICES))]
    return [CHOICES[place] for place in places], places.index(0)


def _avqa(root: Path, scenes: Iterator[Scene]) -> None:
    (root / "videos").mkdir(parents=True)
    for split, clips, each in (("train", 12, 4), ("val", 2, 2)):
        rows = []
        for clip in range(clips):
            name = f"{split}{clip}_000030"
            render(next(scenes), root / "videos" / f"{name}.mp4")
            for k in range(each):
                choices, answer = _turned(clip + k)
                rows.append({
                    "id": len(rows), "video_name": name, "video_id": clip, "multi_choice": choices, "answer": answer,
                    "question_text": f"What happens in part {k} of {name}?",
                    "question_relation": ("Both", "View", "Sound")[k % 3],
                    "question_type": ("Which", "Come From", "Happening", "Where")[k % 4],
                })  # fmt: skip
        (root / f"{split}_qa.json").write_text(json.dumps(rows))


def _avrt_20k(root: Path) -> None:
    """The traces that AVRT's authors published, over AVQA's clips."""
    import pyarrow
    import pyarrow.parquet

    (root / "data").mkdir()
    rows = []
    for row in json.loads((root / "train_qa.json").read_text()):
        right = row["multi_choice"][row["answer"]]
        rows.append({
            **{name: row[name] for name in ("id", "video_name", "video_id", "question_relation", "question_type")},
            "question": row["question_text"], "choices": row["multi_choice"], "answer": right,
            "av_reasoning": f"<think>What is heard fits {right}.</think><answer>{'ABCD'[row['answer']]}</answer>",
        })  # fmt: skip
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, root / "data" / "af3_kimivl-00000-of-00001.parquet")


def _daily_omni(root: Path, scenes: Iterator[Scene]) -> None:
    rows = []
    for clip in range(2):
        name = f"daily{clip}"
        (root / "Videos" / name).mkdir(parents=True)
        render(next(scenes), root / "Videos" / name / f"{name}_video.mp4")
        for k in range(2):
            choices, answer = _turned(clip + k)
            rows.append({
                "Question": f"What comes after part {k} of {name}?", "video_id": name, "video_duration": "30s",
                "Choice": [f"{'ABCD'[i]}. {text}" for i, text in enumerate(choices)], "Answer": "ABCD"[answer],
                "Type": ("Event Sequence", "Reasoning")[k], "video_category": "Vlog",
                "content_parent_category": "Daily life", "content_fine_category": "Cooking",
            })  # fmt: skip
    (root / "qa.json").write_text(json.dumps(rows))


def _omnibench(root: Path) -> None:
    (root / "mm_data" / "image").mkdir(parents=True)
    (root / "mm_data" / "audio").mkdir(parents=True)
    (root / "dataset").mkdir()
    rows = []
    for i in range(4):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 90, 3), np.uint8)).save(
            root / "mm_data" / "image" / f"{i}.png"
        )
        _tone(root / "mm_data" / "audio" / f"{i}.wav", 300.0 + 90 * i)
        choices, answer = _turned(i)
        rows.append({
            "index": i, "task type": ("Count and Quantity", "Identity and Relationship")[i % 2], "audio type": "speech",
            "question": f"Who speaks in picture {i}?", "options": choices, "answer": choices[answer],
            "audio_path": f"{i}.wav", "image_path": f"{i}.png", "image content": "noise", "audio content": "a tone",
        })  # fmt: skip
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "dataset" / "batch-5_1142_20240817.jsonl").write_text(lines)


def _mmar(root: Path) -> None:
    (root / "audio").mkdir(parents=True)
    rows = []
    for i in range(4):
        _tone(root / "audio" / f"m{i}.wav", 500.0 + 70 * i)
        choices, answer = _turned(i)
        rows.append({
            "id": f"m{i}", "audio_path": f"./audio/m{i}.wav", "question": f"What is heard in {i}?", "choices": choices,
            "answer": choices[answer], "modality": "sound", "category": "Signal Layer", "sub-category": "Anomaly",
            "language": "en", "source": "youtube", "url": "", "timestamp": "00:00:00,00:00:02",
        })  # fmt: skip
    (root / "MMAR-meta.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _tone(path: Path, pitch: float) -> None:
    seconds = np.arange(int(1.5 * 16_000)) / 16_000
    soundfile.write(path, 0.4 * np.sin(2 * np.pi * pitch * seconds).astype(np.float32), 16_000)
