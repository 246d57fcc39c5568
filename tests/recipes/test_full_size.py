"""AVQA's training annotation at its full size, with real clips under many names: right counts in bounded memory."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from avrt.data.shards.reader import ShardSet
from tests.conftest import make_clip

ROWS, NAMES = 40_127, 60
RELATIONS = ("Both", "Sound", "View")
TYPES = ("Which", "Come From", "Happening", "Where", "Why", "Before Next", "When", "Used For")
GIGABYTES = 2.0


def annotations(rng: np.random.Generator) -> list[dict]:
    """Rows in the real schema: some choices are null, now and then the right one; some clips are not there."""
    rows = []
    for number in range(ROWS):
        choices: list[str | None] = [f"thing {number % 97} {i}" for i in range(4)]
        for i in range(4):
            if rng.random() < 0.03:
                choices[i] = None
        clip = int(rng.integers(0, NAMES + 2))
        rows.append({
            "id": number, "video_name": f"clip{clip:07d}_{clip:06d}", "video_id": clip,
            "question_text": "What makes the sound in the video?", "multi_choice": choices,
            "answer": int(rng.integers(0, 4)), "question_relation": str(rng.choice(RELATIONS)),
            "question_type": str(rng.choice(TYPES)),
        })  # fmt: skip
    return rows


def tree_megabytes(pid: int) -> float:
    """Memory of a process and all below it; what they share is counted once."""
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        try:
            children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        waiting += [int(child) for child in children]
        total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_forty_thousand_rows(tmp_path):
    shared = Path(__file__).parents[3] / "shared" / "data" / "clips"
    sources = sorted(shared.glob("*.mp4")) or [make_clip(tmp_path / f"{i}.mp4", tone=300 + 100 * i) for i in range(6)]
    rows = annotations(np.random.default_rng(0))
    (tmp_path / "videos").mkdir()
    (tmp_path / "train_qa.json").write_text(json.dumps(rows))
    for clip in range(NAMES):
        (tmp_path / "videos" / f"clip{clip:07d}_{clip:06d}.mp4").write_bytes(sources[clip % len(sources)].read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-m", "avrt", "shards", "avqa", "--root", str(tmp_path), "--out", str(tmp_path / "out"),
         "--frames", "2", "--audio-seconds", "0.5", "--min-pixels", "3136", "--max-pixels", "6272", "--workers", "2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    peaks: list[float] = []
    working: list[float] = []  # from the time on when the processes that decode have started and shards appear

    def watch() -> None:
        while process.poll() is None:
            peaks.append(tree_megabytes(process.pid))
            if len(list((tmp_path / "out").glob("*.tar"))) > 20:
                working.append(peaks[-1])
            time.sleep(0.25)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate(timeout=600)
    watcher.join()
    assert process.returncode == 0, err
    print(f"\npeak {max(peaks):.0f} MB, {out}")
    assert max(peaks) < GIGABYTES * 1024
    assert len(working) > 10
    half = len(working) // 2
    assert max(working[half:]) < 1.15 * max(working[:half])  # it does not grow with what was written

    right_is_null = [r for r in rows if r["multi_choice"][r["answer"]] is None]
    missing = [r for r in rows if r not in right_is_null and r["video_id"] >= NAMES]
    alone = [r for r in rows if r["multi_choice"].count(None) == 3 and r["multi_choice"][r["answer"]] is not None]
    left_out = {r["id"] for r in [*right_is_null, *missing, *alone]}
    usable = [r for r in rows if r["id"] not in left_out]
    shards = ShardSet(tmp_path / "out")
    manifest = shards.manifest
    assert manifest.samples == len(usable)
    assert manifest.samples + len(manifest.skipped) == ROWS
    assert manifest.question_types == Counter(r["question_type"] for r in usable)
    assert manifest.counts == {"video": len(usable), "audio": len(usable)}
    assert any(len(set(r["multi_choice"])) < 4 for r in usable)
    by_id = {f"avqa-train-{r['id']}": r for r in usable}
    for index in np.random.default_rng(1).integers(0, len(shards), 300):
        sample = shards.sample(int(index))
        row = by_id[sample.id]
        assert sample.choices == tuple(c for c in row["multi_choice"] if c is not None)
        assert sample.choices[sample.answer] == row["multi_choice"][row["answer"]]
