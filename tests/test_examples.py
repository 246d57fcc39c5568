"""The examples run as they stand."""

import os
import subprocess
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import avrt
from avrt.data.media.clip import Clip
from avrt.data.shards.members import decode_members
from avrt.data.shards.reader import ShardSet
from avrt.data_recipes.nano_world import SOUNDS
from avrt.objectives.rewards import find_reward
from avrt.response import parse_response
from tests.conftest import WARM, make_clip

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run(*arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [WARM.python, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_one_task_in_ten_lines_each(world, tmp_path):
    for name in ("ask", "score", "rollout", "data_module"):
        code = [line for line in (EXAMPLES / f"{name}.py").read_text().splitlines()[1:] if line.strip()]
        assert len(code) <= 12, name
    clip = next((world / "clips" / "val").glob("*.mp4"))
    told = run(EXAMPLES / "ask.py", "nano/student", clip, "Which sound is heard?", *SOUNDS[:4])
    assert "<answer>" in told
    assert "choice: " in told
    told = run(EXAMPLES / "score.py", "nano/student", clip).splitlines()
    bare, reasoned = [float(line.split()[0]) for line in told[:4]], float(told[4].split()[0])
    assert max(bare) < reasoned <= 0, "it was trained to reason first"
    told = run(EXAMPLES / "rollout.py", "nano/student", clip).splitlines()
    assert len(told) == 4
    assert [float(line.split()[0]) for line in told] == sorted((float(line.split()[0]) for line in told), reverse=True)
    run(EXAMPLES / "data_module.py", "nano/student", world / "train", tmp_path / "a.ckpt")
    again = avrt.load(tmp_path / "a.ckpt", "cpu")
    assert again.settings.prompt == avrt.load("nano/student", "cpu").settings.prompt
    assert [stage.stage for stage in again.settings.training] == ["sft", "grpo", "sft"]


def test_the_notebook_runs_and_ends_with_what_it_shows():
    notebook = nbformat.read(EXAMPLES / "first_answer.ipynb", as_version=4)
    shown = texts(notebook)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    ran = texts(notebook)
    assert len(ran) == len(shown)
    assert any("| right: A" in text and "answer: A" in text for text in ran)
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 1


def texts(notebook) -> list[str]:
    """What each cell printed, if anything; in how many pieces it came depends on the machine's load."""
    printed = (
        "".join(o["text"] for o in cell.get("outputs", []) if o.get("name") == "stdout") for cell in notebook.cells
    )
    return [text for text in printed if text]


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
