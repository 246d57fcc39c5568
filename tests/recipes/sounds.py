"""Sounds of given lengths in a benchmark's own layout, and how much of each a recipe's shards hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from avrt.commands import shards as shards_command
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet

_SPAN = re.compile(r"([\d:]+)\s*,\s*([\d:]+)")


def dated_seconds(timestamp: str) -> float:
    """Length of what a timestamp such as `00:01:32,00:02:02` or `1:51,2:01;3:14,3:24` cuts out; 0 if it tells none."""

    def clock(text: str) -> int:
        return sum(int(part) * 60**place for place, part in enumerate(reversed(text.split(":"))))

    return float(sum(clock(end) - clock(start) for start, end in _SPAN.findall(timestamp)))


def write_sounds(root: Path, lengths: Mapping[str, float], rate: int = 8000) -> None:
    """Write a hum of each length to its file below `root`; its loudness tells that the end is there."""
    for name, seconds in lengths.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        soundfile.write(path, 0.5 * np.sin(2 * np.pi * 200 * time) * time / max(seconds, 1.0), rate, subtype="PCM_16")


def heard_seconds(recipe: str, root: Path, out: Path, *options: str) -> dict[str, float]:
    """Convert a data set with the recipe's own defaults; sample id -> seconds of sound in its shards."""
    shards_command.main([recipe, "--root", str(root), "--out", str(out), "--workers", "1", *options])
    shards = ShardSet(out)
    clips = (decode_members(shards.read(index)) for index in range(len(shards)))
    return {sample.id: 0.0 if clip.audio is None else len(clip.audio) / 16_000 for sample, clip in clips}
