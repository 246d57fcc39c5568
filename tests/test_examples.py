"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

from avrt.data.media.clip import Clip
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.objectives.rewards import find_reward
from avrt.response import parse_response
from tests.conftest import make_clip

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ask_in_ten_lines(tmp_path):
    code = [line for line in (EXAMPLES / "ask.py").read_text().splitlines()[1:] if line.strip()]
    assert len(code) <= 10
    told = run(EXAMPLES / "ask.py", "nano", make_clip(tmp_path / "a.mp4"), "What is seen?", "a ball", "a box")
    assert "choice:" in told


def test_grpo_in_plain_pytorch(world):
    code = [line for line in (EXAMPLES / "grpo.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 55
    told = run(EXAMPLES / "grpo.py", world / "train", "--steps", 2)
    assert told.count("reward") == 2
    steps = told.splitlines()
    assert "KL 0.00e+00" in steps[0]  # the policy is still the reference
    assert "KL 0.00e+00" not in steps[1], "the first step changed nothing"


def test_own_reward_looks_at_the_clip(monkeypatch, world):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    reward = find_reward("own_reward.speaks_of_sound")
    sample, clip = decode_members(ShardSet(world / "train").read(0))
    heard = parse_response("<think>I hear a hum.</think><answer>A</answer>", sample.letters)
    assert reward(heard, sample, clip) == 1.0
    assert reward(heard, sample, Clip()) == 0.0


def test_own_dataset_is_converted(tmp_path):
    root = tmp_path / "birds"
    root.mkdir()
    make_clip(root / "a.mp4")
    (root / "birds.csv").write_text("file,question,right,wrong\na.mp4,Which bird?,a wren,a kite\na.mp4,And here?,,x\n")
    run(
        "-m", "avrt", "shards", "own_dataset.Birds", "--root", root, "--out", tmp_path / "shards",
        PYTHONPATH=f"{EXAMPLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    )  # fmt: skip
    shards = ShardSet(tmp_path / "shards")
    assert [shards.sample(i).choices for i in range(len(shards))] == [("a wren", "a kite")]
    assert shards.manifest.skipped == {"birds-00001": "birds-00001: has no right answer"}
