"""Steps per minute and rewards of GRPO with a rollout ahead, against taking turns, with a vLLM engine.

    python benchmarks/rollout_ahead.py --python .venv-server/bin/python --train shards/train [--student DIR]

Both learn from the same samples with the same engine. They take turns, some steps at a time, each going on from its own
checkpoint, so that other load on the machine slows both alike. `--cores 0 1` gives the trainer the first core and the
engine the second, as if each had a GPU of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from rich.console import Console
from rich.table import Table

from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.loading.datamodule import AVDataModule
from avrt.objectives.policy_loss import PolicyLoss
from avrt.objectives.rewards import LengthReward, RewardOptions
from avrt.policy.policy import load_policy
from avrt.policy.saving import export_policy
from avrt.policy.student_options import StudentOptions
from avrt.policy.vllm.options import VLLMOptions
from avrt.policy.vllm.process import WORKER
from avrt.rollout.sampling import SamplingOptions
from avrt.training.checkpoints import RunCheckpoint, complete_checkpoints
from avrt.training.grpo_module import GRPOModule
from avrt.training.optimizers import OptimizerOptions

SETTINGS = {"enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 64, "max_num_batched_tokens": 32768}
SHOWN = ("seconds/rollout", "seconds/wait", "seconds/reward", "seconds/update", "rollout/staleness",
         "policy/importance", "policy/clip_fraction", "completions/tokens")  # fmt: skip
MODES = ("turns", "ahead")


class Measured(GRPOModule):
    """Keeps what is logged of each step, with the time."""

    def __init__(self, steps: list[dict[str, float]], **settings: Any) -> None:
        super().__init__(**settings)
        self.steps = steps

    def log_values(self, values: Mapping[str, float], **settings: Any) -> None:
        """Log them, and keep a step's."""
        super().log_values(values, **settings)
        if "rewards/total/mean" in values:
            self.steps.append({"at": time.perf_counter(), **values})


class StopAfter(pl.Callback):
    """Stops a run after so many updates, with what is in flight left to its checkpoint."""

    def __init__(self, steps: int) -> None:
        self.steps = self.last = steps

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Note where it begins."""
        self.last = trainer.global_step + self.steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop there."""
        trainer.should_stop |= trainer.global_step >= self.last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="of an environment with vLLM")
    parser.add_argument("--train", type=Path, required=True, help="shards")
    parser.add_argument("--student", default=str(Path(__file__).parents[1] / "configs" / "nano" / "student"))
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="of each round")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--group_size", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=128)
    parser.add_argument("--num_iterations", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--cores", type=int, nargs=2, help="of the trainer and of the engine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        student = StudentOptions(options.student, dtype="float32")
        export_policy(load_policy(student), root / "model", full_layout=True)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if options.cores is not None:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = str(options.cores[1])
        worker = subprocess.Popen(
            [options.python, WORKER, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            if options.cores is not None:
                os.sched_setaffinity(0, options.cores[:1])
                os.sched_setaffinity(worker.pid, options.cores[1:])
            assert worker.stdout is not None
            address = next(line for line in worker.stdout if line.startswith("listening on ")).split()[-1]
            engine = VLLMOptions(addresses=[address], model=str(root / "model"), settings=SETTINGS)
            rounds: dict[str, list[list[dict[str, float]]]] = {mode: [] for mode in MODES}
            for number in range(options.rounds):
                for mode in MODES if number % 2 == 0 else MODES[::-1]:
                    rounds[mode].append(train(options, student, engine, root / mode, mode))
                    mean = statistics.mean(step["rewards/total/mean"] for step in rounds[mode][-1])
                    print(
                        f"{mode} {number}: {per_minute(rounds[mode][-1]):.2f} steps/min, reward {mean:.3f}", flush=True
                    )
        finally:
            worker.kill()
    show(rounds)


def train(
    options: argparse.Namespace, student: StudentOptions, engine: VLLMOptions, root: Path, mode: str
) -> list[dict[str, float]]:
    """One round: some steps, from the checkpoint of the round before; returns what they logged."""
    steps: list[dict[str, float]] = []
    total = options.rounds * options.steps
    module = Measured(
        steps, student=student, group_size=options.group_size, vllm=engine, rollout_ahead=int(mode == "ahead"),
        rollout=SamplingOptions(max_new_tokens=options.max_new_tokens), micro_batch_size=16,
        optimizer=OptimizerOptions(lr=options.lr, betas=(0.9, 0.95), warmup_steps=5),
        loss=PolicyLoss(importance_sampling_cap=2.0), num_iterations=options.num_iterations,
        rewards=RewardOptions(length_shape=LengthReward(mu=45, sigma=15, w_min=15, w_max=75, bonus=1.0)),
    )  # fmt: skip
    prompt = PromptOptions(system_prompt="", instruction="First think, then answer.", audio_in_video=True)
    data = AVDataModule(train=str(options.train), batch_size=options.batch_size, num_workers=0, prompt=prompt)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=total * options.num_iterations, max_epochs=-1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
        callbacks=[StopAfter(options.steps * options.num_iterations), RunCheckpoint(every_n_train_steps=10**6)],
    )  # fmt: skip
    last = [str(path) for path in complete_checkpoints(root)[-1:]]
    trainer.fit(module, datamodule=data, ckpt_path=last[0] if last else None, weights_only=True)
    return steps


def per_minute(steps: list[dict[str, float]]) -> float:
    """Steps per minute from the first update of a round to its last, so that starting counts for nothing."""
    return 60 * (len(steps) - 1) / (steps[-1]["at"] - steps[0]["at"])


def show(rounds: dict[str, list[list[dict[str, float]]]]) -> None:
    """Print both side by side."""
    speeds = {mode: [per_minute(steps) for steps in rounds[mode]] for mode in MODES}
    table = Table("", *MODES, "ahead / turns", title="rollouts ahead")
    for name, pick in (("steps per minute, median", statistics.median), ("the same, best round", max)):
        turns, ahead = (pick(speeds[mode]) for mode in MODES)
        table.add_row(name, f"{turns:.2f}", f"{ahead:.2f}", f"{ahead / turns:.2f}")
    for number in range(len(rounds["turns"])):
        of = [[step["rewards/total/mean"] for step in rounds[mode][number]] for mode in MODES]
        cells = [f"{statistics.mean(v):.3f} +- {statistics.stdev(v) / len(v) ** 0.5:.3f}" for v in of]
        table.add_row(f"total reward, round {number}", *cells, "")
    for name in SHOWN:
        found = [[step[name] for steps in rounds[mode] for step in steps if name in step] for mode in MODES]
        table.add_row(name, *(f"{statistics.mean(v):.4g}" if v else "-" for v in found), "")
    Console().print(table)
    print(json.dumps({mode: [s["rewards/total/mean"] for steps in rounds[mode] for s in steps] for mode in MODES}))


if __name__ == "__main__":
    main()
