"""Real training runs for the tests: the `avrt` command in processes of its own, metrics read from its CSV log."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.conftest import WARM, avrt

SMALL = ("--data.num_workers", 0, "--model.micro_batch_size", 4)


def fit_arguments(stage: str, world: Path, root: Path, *extra: object) -> list[str]:
    """Arguments of a small `avrt fit` run that logs every step as CSV."""
    return [
        "fit",
        *("--config", f"{stage}.yaml", "--config", f"nano/{stage}.yaml"),
        *("--data.train", str(world / "train")),
        *("--trainer.default_root_dir", str(root)),
        *("--trainer.logger", "lightning.pytorch.loggers.CSVLogger"),
        *("--trainer.logger.save_dir", str(root)),
        *("--trainer.logger.flush_logs_every_n_steps", "1"),
        *("--trainer.enable_model_summary", "false"),
        *map(str, extra),
    ]


def fit(stage: str, world: Path, root: Path, *extra: object) -> dict[int, dict[str, float]]:
    """Run to the end; returns the logged values of each step."""
    avrt(*fit_arguments(stage, world, root, *extra))
    return logged(root)


def fit_and_kill(stage: str, world: Path, root: Path, *extra: object) -> None:
    """Run until a complete checkpoint has appeared and some more steps were logged, then kill -9 every process."""
    command = [WARM.python, "-m", "avrt", *fit_arguments(stage, world, root, *extra)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 600
    try:
        while process.poll() is None and time.monotonic() < deadline:
            done = list((root / "checkpoints").glob("step-*.ckpt/latest"))
            if done:
                saved = max(int(path.parent.stem.removeprefix("step-")) for path in done)
                if max(logged(root), default=0) > saved:
                    break
            time.sleep(0.02)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def logged(root: Path) -> dict[int, dict[str, float]]:
    """Step -> name -> value, over all CSV logs below `root`; later runs win."""
    steps: dict[int, dict[str, float]] = {}
    for path in sorted(root.glob("**/metrics.csv"), key=lambda p: p.stat().st_mtime):
        with path.open() as file:
            for row in csv.DictReader(file):
                if row.get("step"):
                    values = {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")}
                    steps.setdefault(int(row["step"]), {}).update(values)
    return steps
