"""Runs that are stopped and gone on with, many in one process per rank.

    python -m tests.training.stopping CASES RESULTS SHARDS

Each case trains twice or more on the same shards: first until something stops it, then from what `--ckpt_path last`
takes. Every sample id that reaches the model is written down with the number of its batch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import DDPStrategy

from avrt.data.inputs.batch import OmniBatch
from avrt.data.inputs.prompt_options import PromptOptions
from avrt.data.loading.datamodule import AVDataModule
from avrt.policy.student_options import StudentOptions
from avrt.rollout.sampling import SamplingOptions
from avrt.training.checkpoints import RunCheckpoint, complete_checkpoints
from avrt.training.grpo_module import GRPOModule
from avrt.training.sft_module import SFTModule

STUDENT = StudentOptions(source="nano", dtype="float32")
PROMPT = PromptOptions(system_prompt="", instruction="", audio_in_video=True)
WHYS = ("max_steps", "should_stop", "interrupt", "terminate", "exception", "epoch")


@dataclass
class Case:
    """What stops a run, and where.

    Attributes:
        stage: `sft` or `grpo`.
        epochs: How many in all.
        batch_sizes: Samples per rank and step of each run; as many runs.
        workers: Loader processes of each run.
        stops: Why and after which step of its own each run but the last is stopped.
        updates: Optimizer steps per rollout.
        dynamic: Batches sampled for one step at most; 0 for no dynamic sampling.
        seed: Of the order.
    """

    stage: str
    epochs: int
    batch_sizes: list[int]
    workers: list[int]
    stops: list[tuple[str, int]]
    updates: int = 1
    dynamic: int = 0
    seed: int = 0


@dataclass
class Seen:
    """What one run of a case was given.

    Attributes:
        batches: Number of the batch since the first run began -> ids of this rank.
        saved: Batches that the newest checkpoint counts after the run.
    """

    batches: dict[int, list[str]] = field(default_factory=dict)
    saved: int = 0


class _Stop(pl.Callback):
    """Stop the run in its own way within a step."""

    def __init__(self, why: str, step: int, seen: Seen) -> None:
        self.why, self.step, self.seen = why, step, seen
        self.taken = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: OmniBatch, batch_idx: int) -> None:
        self.taken += 1
        number = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        ids = [s.id for s, valid in zip(batch.samples, batch.valid.tolist(), strict=True) if valid]
        self.seen.batches[number] = ids
        if self.taken != self.step:
            return
        if self.why == "should_stop":  # what Lightning's timer does for max_time
            trainer.should_stop = True
        elif self.why == "interrupt" and trainer.is_global_zero:  # the other rank learns it from this one
            os.kill(os.getpid(), signal.SIGINT)
        elif self.why == "terminate" and trainer.is_global_zero:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.why == "exception":
            raise RuntimeError("stopped by the test")


class QuickSFT(SFTModule):
    """Fine-tuning whose loss is 0, since only the order of samples matters here."""

    def training_step(self, batch: OmniBatch, batch_idx: int) -> None:
        loss = sum((p.sum() * 0 for p in self.parameters() if p.requires_grad), torch.zeros(()))
        self.step_optimizer.backward(loss, last=True)
        self.step_optimizer.step()


def module_of(case: Case) -> pl.LightningModule:
    if case.stage == "sft":
        return QuickSFT(student=STUDENT)
    return GRPOModule(
        student=STUDENT,
        group_size=2,
        rollout=SamplingOptions(max_new_tokens=3),
        micro_batch_size=8,
        num_iterations=case.updates,
        dynamic_sampling=case.dynamic,
    )


def run_case(case: Case, shards: Path, root: Path, ranks: int) -> list[Seen]:
    found: list[Seen] = []
    for number, (batch_size, workers) in enumerate(zip(case.batch_sizes, case.workers, strict=True)):
        why, step = case.stops[number] if number < len(case.stops) else ("", 0)
        seen = Seen()
        data = AVDataModule(
            train=str(shards), batch_size=batch_size, num_workers=workers, seed=case.seed, prompt=PROMPT
        )
        last = complete_checkpoints(root)
        begun = torch.load(last[-1], weights_only=False)["global_step"] if last else 0
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=ranks,
            strategy=DDPStrategy() if ranks > 1 else "auto",
            max_epochs=1 if why == "epoch" else case.epochs,
            max_steps=begun + step * case.updates if why == "max_steps" else -1,
            default_root_dir=root,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[_Stop(why, step, seen), RunCheckpoint(every_n_train_steps=2)],
        )
        try:
            trainer.fit(module_of(case), datamodule=data, ckpt_path=str(last[-1]) if last else None, weights_only=False)
        except SystemExit:  # Lightning's own end of an interrupted run
            pass
        except RuntimeError as error:
            if "stopped by the test" not in str(error):
                raise
        if last := complete_checkpoints(root):
            loops = torch.load(last[-1], weights_only=False)["loops"]["fit_loop"]
            seen.saved = loops["epoch_loop.batch_progress"]["total"]["processed"]
        found.append(seen)
        if ranks > 1:
            torch.distributed.barrier()  # no rank looks for a checkpoint that the other still writes
    return found


def main() -> None:
    cases, results, shards = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(1)
    with results.open("w") as file:
        for number, record in enumerate(json.loads(cases.read_text())):
            root = results.parent / f"case-{number}"  # the same folder for all ranks
            seen = run_case(Case(**record), shards, root, ranks)
            file.write(json.dumps({"case": number, "rank": rank, "runs": [asdict(s) for s in seen]}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
