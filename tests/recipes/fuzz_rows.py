"""Mutated annotation rows through `avrt shards`: no traceback, and every row is used or left out by name.

python -m tests.recipes.fuzz_rows --rows 2000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from avrt.commands import shards as shards_command
from avrt.data.shards.manifest import Manifest
from avrt.data.shards.reader import ShardSet
from avrt.errors import NothingUsableError
from tests.recipes.test_labels import (
    avqa,
    avqa_r1,
    dailyomni,
    folder,
    intent,
    mmar,
    mmau,
    omnibench,
    omnivideobench,
    videomme,
    worldsense,
)  # fmt: skip

Rng = np.random.Generator
CHOICES = ["a dog", "a cat", "a car", "rain"]
ODD_TEXTS = [
    "", " ", "\ud83d", "\ude00\ud83d", "\u2028", "\x85", "\0", "\ufeff", "\x1b[31m", "\n", "../..", "a" * 3000, "B",
    "BC",
    "(C)", "b.", "C) a car", "U.S. flag", "[", "null", "1", "\u202eabc", "caf\u00e9", "'", '"', "\\", "{}", "None",
]  # fmt: skip
ODD_VALUES: list[Any] = [
    None, True, 0, 1, 3, 4, -1, 1.0, 1.5, float("nan"), float("inf"), 10**30, [], {}, ["B"], ["A", "B"], {"A": "x"},
    {"A": "a dog", "B": "a cat"}, {"1": "x", "2": "y"}, ["A. x", "B. y"], ["B. x", "A. y"], ["x", "x"],
    ["x", None, "y"],
    [["x"]], '["x", "y"]', {"bytes": "x" * 5000, "path": None},
]  # fmt: skip
LAYOUTS: dict[str, tuple[Callable[[Any, Any], dict[str, Any]], str, tuple[str, ...]]] = {
    "folder": (folder, "questions.jsonl", ()),
    "avqa": (avqa, "train_qa.json", ()),
    "avqa_r1": (avqa_r1, "train.json", ()),
    "dailyomni": (dailyomni, "qa.json", ()),
    "mmar": (mmar, "MMAR-meta.jsonl", ()),
    "omnibench": (omnibench, "o.json", ("--annotation", "o.json")),
    "music_avqa": (
        lambda options, answer: {
            "video_id": "v", "question_id": 1, "type": '["Audio", "Counting"]',
            "question_content": "How many <Object>?", "templ_values": '["flute"]', "question_deleted": 0,
            "anser": CHOICES[answer] if answer in range(4) else answer,
        },
        "avqa-train.json",
        (),
    ),
    "mmau": (mmau, "mmau-test-mini.json", ()),
    "videomme": (videomme, "v.json", ("--annotation", "v.json")),
    "worldsense": (worldsense, "worldsense_qa.json", ()),
    "avhbench": (
        lambda options, answer: {
            "video_id": "v", "task": "AV Matching", "text": "?", "label": ("Yes", "No")[answer % 2],
        },
        "json/qa.json",
        (),
    ),
    "omnivideobench": (lambda options, answer: omnivideobench(options, answer)["questions"][0], "data.json", ()),
    "intenttrain": (intent, "emer_rewrite.json", ()),
    "intentbench": (
        lambda options, answer: {**intent(options, "ABCD"[: answer + 1]), "problem_type": "emer_ov_mc"}, "qa.json", ()
    ),
}  # fmt: skip
# Rows that stand in a list within another: the outer one stays whole, so that each row counts once.
NESTED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "omnivideobench": lambda row: {"video": "v", "video_type": "Vlog", "duration": "00:05", "questions": [row]},
}
IDS = {"folder": "id", "avqa": "id", "avqa_r1": "problem_id", "music_avqa": "question_id"}


def value(rng: Rng) -> Any:
    """An odd value, or an odd text alone or within another."""
    if rng.random() < 0.4:
        return ODD_VALUES[int(rng.integers(len(ODD_VALUES)))]
    text = ODD_TEXTS[int(rng.integers(len(ODD_TEXTS)))]
    return text if rng.random() < 0.5 else f"a{text}b"


def mutate(row: dict[str, Any], rng: Rng) -> Any:
    """Spoil a row: replace, drop, add, or swap fields; or put something else in its place."""
    spoilt: dict[str, Any] = dict(row)
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(list(spoilt))) if spoilt else "question"
        match int(rng.integers(0, 8)):
            case 0 | 1 | 2:
                spoilt[name] = value(rng)
            case 3:
                spoilt.pop(name, None)
            case 4:
                spoilt[str(value(rng))[:40]] = value(rng)
            case 5:
                other = str(rng.choice(list(spoilt))) if spoilt else name
                spoilt[name], spoilt[other] = spoilt.get(other), spoilt.get(name)
            case 6 if isinstance(spoilt.get(name), list):
                entries = list(spoilt[name])
                entries.insert(int(rng.integers(0, len(entries) + 1)), value(rng))
                spoilt[name] = entries
            case 7 if rng.random() < 0.1:
                return value(rng)
            case _:
                if isinstance(spoilt.get(name), str):
                    spoilt[name] += str(ODD_TEXTS[int(rng.integers(len(ODD_TEXTS)))])
    return spoilt


def make(root: Path, recipe: str, count: int, rng: Rng) -> None:
    """A data set of mutated rows in a recipe's layout, with the sounds and pictures that sound rows name."""
    layout, file, _ = LAYOUTS[recipe]
    rows = []
    for number in range(count):
        row = layout(CHOICES, int(rng.integers(4)) if recipe != "avqa_r1" else "B")
        if recipe == "dailyomni":
            row["Answer"] = "ABCD"[row["Answer"]]
        if recipe in IDS:
            row[IDS[recipe]] = int(rng.integers(0, max(1, number + 1))) if rng.random() < 0.1 else number
        row = mutate(row, rng) if rng.random() < 0.8 else row
        rows.append(NESTED[recipe](row) if recipe in NESTED else row)
    (root / file).parent.mkdir(exist_ok=True)
    lines = map(json.dumps, rows)
    (root / file).write_text("\n".join(lines) if file.endswith("l") else json.dumps(rows))
    for name in (
        "v.mp4",
        "a.wav",
        "mm_data/audio/a.wav",
        "videos/v.mp4",
        "Videos/v/v_video.mp4",
        "data/v.mp4",
        "video/v.mp4",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("wav"):
            soundfile.write(root / name, np.sin(np.arange(8000) / 5) * 0.3, 16_000)
        else:
            (root / name).write_bytes(_clip())
    from PIL import Image

    for name in ("i.jpg", "mm_data/image/i.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (200, 30, 30)).save(root / name)


_made: list[bytes] = []


def _clip() -> bytes:
    from tests.conftest import make_clip

    if not _made:
        with tempfile.TemporaryDirectory() as folder_:
            _made.append(make_clip(Path(folder_) / "c.mp4", frames=6, sound_seconds=0.6).read_bytes())
    return _made[0]


def run(root: Path, rows: int, seed: int = 0) -> Counter[str]:
    """Convert mutated rows of every recipe; how many were used, noted and left out. Fails if one is not counted."""
    outcomes: Counter[str] = Counter()
    share = -(-rows // len(LAYOUTS))
    for number, recipe in enumerate(LAYOUTS):
        rng = np.random.default_rng([seed, number])
        home = root / recipe
        home.mkdir()
        make(home, recipe, share, rng)
        where = ["--root", str(home), *LAYOUTS[recipe][2]]
        shape = ["--frames", "1", "--audio-seconds", "0.3", "--min-pixels", "3136", "--max-pixels", "3136"]
        for extra in (["--out", "none", "--dry-run"], ["--out", str(home / "out"), "--workers", "1", *shape]):
            try:
                shards_command.main([recipe, *where, *extra])
            except NothingUsableError:
                outcomes["commands without a usable row"] += 1
        manifest = Manifest.load(home / "out")
        assert manifest.samples + len(manifest.skipped) == share, (recipe, manifest.samples, len(manifest.skipped))
        assert all(len(reason) < 500 for reason in manifest.skipped.values())
        assert (home / "out" / "manifest.json").read_bytes().decode()
        shards_command.main(["verify", str(home / "out")])
        shards = ShardSet(home / "out")
        for sample in list(shards.samples())[:10]:
            shards_command.main(["show", str(home / "out"), f"--id={sample.id}", "--out", str(home / "look")])
            assert all(sample.choices[index] for index in sample.right)
        outcomes["used"] += manifest.samples
        outcomes["of them with a note"] += len(manifest.notes)
        outcomes["of them with an answer"] += manifest.labels["answer"]
        outcomes["left out"] += len(manifest.skipped)
    return outcomes


def main() -> None:
    """Run by hand."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder_:
        outcomes = run(Path(folder_), options.rows, options.seed)
    for outcome, count in outcomes.items():
        print(f"{count:7d}  {outcome}")
    print(f"{outcomes['used'] + outcomes['left out']:7d}  rows in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
