"""Two DeepSpeed processes killed with -9 and resumed: the samples that reach the model, each by its id."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from avrt.data.inputs.batch import OmniBatch
from avrt.data.shards.reader import ShardSet
from avrt.training.sft_module import SFTModule
from tests.conftest import WARM
from tests.training.runs import fit_arguments

EPOCHS, BATCH = 2, 5


class Watched(SFTModule):
    """Fine-tuning that writes down which samples its model is given."""

    def training_step(self, batch: OmniBatch, batch_idx: int) -> None:
        """Note the ids, then train; a step that is killed half-way has been seen but not saved."""
        log = Path(os.environ["AVRT_WATCHED"])
        entry = {
            "step": self.trainer.global_step, "epoch": batch.epoch, "rank": self.global_rank,
            "ids": [s.id for s, valid in zip(batch.samples, batch.valid.tolist(), strict=True) if valid],
        }  # fmt: skip
        with (log / f"{self.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
        time.sleep(float(os.environ.get("AVRT_PAUSE", 0)))
        super().training_step(batch, batch_idx)


def command(world: Path, root: Path, ranks: int, *extra: object) -> list[str]:
    return [WARM.python, "-m", "avrt", *fit_arguments(
        "sft", world, root, "--model", "tests.training.test_exact_resume.Watched", "--data.num_workers", 2,
        "--data.batch_size", BATCH, "--model.micro_batch_size", BATCH, "--trainer.devices", ranks,
        "--trainer.max_epochs", EPOCHS, "--checkpoint.every_n_train_steps", 2, *extra,
    )]  # fmt: skip


def run(world: Path, root: Path, log: Path, ranks: int, *extra: object) -> None:
    log.mkdir(exist_ok=True)
    done = subprocess.run(
        command(world, root, ranks, *extra), env={**os.environ, "AVRT_WATCHED": str(log)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def kill_after(world: Path, root: Path, log: Path, step: int) -> int:
    """Start, kill -9 every process once that step is saved and later ones were seen; returns the step saved last."""
    log.mkdir(exist_ok=True)
    process = subprocess.Popen(
        command(world, root, 2), env={**os.environ, "AVRT_WATCHED": str(log)}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if saved(root) >= step and max((e["step"] for e in entries(log)), default=0) > saved(root):
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return saved(root)


def trained_once_an_epoch(world: Path, logs: list[Path]) -> None:
    """What was seen in runs that saved when they stopped: no sample twice in an epoch, and none left out."""
    seen = Counter(i for log in logs for entry in entries(log) for i in entry["ids"])
    assert sorted(seen) == sorted(sample.id for sample in ShardSet(world / "train").samples())
    assert set(seen.values()) == {EPOCHS}


def test_ctrl_c_saves_and_ends_with_130(world, tmp_path):
    """The signal reaches the first process alone, as `kill -INT` sends it; the other one stops with it."""
    root, logs = tmp_path / "run", [tmp_path / "before", tmp_path / "after"]
    logs[0].mkdir()
    process = subprocess.Popen(
        command(world, root, 2, "--checkpoint.every_n_train_steps", 100), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "AVRT_WATCHED": str(logs[0]), "AVRT_PAUSE": "0.5"},
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and max((e["step"] for e in entries(logs[0])), default=0) < 2:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.05)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors[-3000:]
    assert "Traceback" not in errors
    assert time.monotonic() - asked < 60
    assert 0 < saved(root) < EPOCHS * 5
    run(world, root, logs[1], 2, "--ckpt_path", "last")
    trained_once_an_epoch(world, logs)


def test_a_run_that_used_up_its_time_goes_on(world, tmp_path, monkeypatch):
    """`max_time` is what one run may take: the same command again and again trains everything once an epoch."""
    monkeypatch.setenv("AVRT_PAUSE", "0.7")
    root, logs = tmp_path / "run", []
    while saved(root) < EPOCHS * 5:
        logs.append(tmp_path / f"log-{len(logs)}")
        run(world, root, logs[-1], 2, "--ckpt_path", "last_or_new", "--trainer.max_time", "00:00:00:05")
        assert len(logs) < 8
    assert len(logs) > 1
    trained_once_an_epoch(world, logs)


def saved(root: Path) -> int:
    done = (root / "checkpoints").glob("step-*.ckpt/latest")
    return max((int(path.parent.stem.removeprefix("step-")) for path in done), default=0)


def entries(log: Path) -> list[dict]:
    lines = [line for path in sorted(log.glob("*.jsonl")) for line in path.read_text().split("\n")[:-1]]
    return [json.loads(line) for line in lines]


def by_step(found: list[dict]) -> dict[int, dict[int, list[str]]]:
    """Step -> rank -> ids."""
    steps: dict[int, dict[int, list[str]]] = {}
    for entry in found:
        steps.setdefault(entry["step"], {})[entry["rank"]] = entry["ids"]
    return steps


@pytest.fixture(scope="module")
def unbroken(world, tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    run(world, root / "run", root / "log", 2)
    return by_step(entries(root / "log"))


@pytest.mark.parametrize("step", [6])  # in the second epoch of 5 steps
def test_the_model_sees_exactly_the_rest(world, tmp_path, unbroken, step):
    everything = sorted(sample.id for sample in ShardSet(world / "train").samples())
    last = kill_after(world, tmp_path / "run", tmp_path / "before", step)
    run(world, tmp_path / "run", tmp_path / "after", 2, "--ckpt_path", "last")
    before, after = (by_step(entries(tmp_path / name)) for name in ("before", "after"))
    assert {k: before[k] for k in range(last)} == {k: unbroken[k] for k in range(last)}
    assert after == {k: v for k, v in unbroken.items() if k >= last}
    assert len(unbroken) == EPOCHS * 5
    trained = Counter(i for steps in ({k: before[k] for k in range(last)}, after) for ranks in steps.values()
                      for ids in ranks.values() for i in ids)  # fmt: skip
    assert sorted(trained) == everything
    assert set(trained.values()) == {EPOCHS}
