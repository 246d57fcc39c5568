"""The first and last lines of a run: what runs where; where its results are, and what one would do next."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table

import avrt
from avrt.messages import print_results, quoted
from avrt.run_folder import complete_checkpoints
from avrt.training.benchmark_module import BenchmarkModule
from avrt.training.checkpoints import is_trial
from avrt.training.evaluation_module import EvaluationModule
from avrt.training.nodes import gathering_command
from avrt.training.strategy import OmniDeepSpeedStrategy

PACKAGES = ("torch", "lightning", "transformers")


def versions_and_devices(trainer: pl.Trainer) -> str:
    """One line that says what runs where."""
    names = (*PACKAGES, "deepspeed") if isinstance(trainer.strategy, OmniDeepSpeedStrategy) else PACKAGES
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    device = trainer.strategy.root_device
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    many = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    return f"avrt {avrt.__version__} with {versions} on {many}{named}"


class WarnUnrewarded(pl.Callback):
    """Says at the end of a GRPO run that it has learned nothing from rewards, if no group ever had unequal ones."""

    def __init__(self) -> None:
        self._batches = self._with_signal = 0
        self._highest = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Note the batch's rewards."""
        metrics = trainer.callback_metrics
        if "advantage/zero_std_groups" in metrics:
            self._batches += 1
            self._with_signal += int(metrics["advantage/zero_std_groups"] < 1)
            self._highest = max(self._highest, float(metrics["rewards/total/mean"]))

    def warn(self) -> None:
        """Say it."""
        if self._batches and not self._with_signal:
            rewards = "every reward was 0" if not self._highest else "all completions of a question got the same reward"
            rank_zero_warn(
                f"THIS RUN HAS LEARNED NOTHING FROM REWARDS: {rewards}, in each of its {self._batches} batches. Do not "
                "use its checkpoint; a student that does not answer in the format needs SFT first"
            )


def end_of_fit(trainer: pl.Trainer) -> None:
    """Print the newest checkpoint, how to see the curves, and how to export."""
    if not trainer.is_global_zero or is_trial(trainer):
        return
    run = Path(trainer.default_root_dir)
    if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers):
        print_results("curves", f"tensorboard --logdir {quoted(run)}")
    if found := complete_checkpoints(run):
        export = f"avrt export --ckpt_path {quoted(found[-1])} --out {quoted(run / 'model')}"
        gathering = gathering_command(trainer.strategy, found[-1])
        print_results("checkpoint", found[-1], export if gathering is None else f"{gathering} && {export}")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WarnUnrewarded):
            callback.warn()


def end_of_evaluation(trainer: pl.Trainer, module: EvaluationModule, scores: Mapping[str, Any] | None = None) -> None:
    """Print the scores as a table, where the predictions are, and what one would do next.

    Args:
        trainer: The trainer.
        module: What was asked.
        scores: Logged name -> value; None for `avrt predict`.
    """
    if not trainer.is_global_zero:
        return
    if scores:
        Console().print(score_table(scores))
    if is_trial(trainer) or not hasattr(module, "writer"):
        return
    folder = module.writer.path.parent
    following = f"avrt report {quoted(folder)} --out {quoted(folder / 'report')}"
    print_results("predictions", module.writer.path, following if isinstance(module, BenchmarkModule) else None)


def score_table(scores: Mapping[str, Any]) -> Table:
    """Logged scores, one a row; shares in percent."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in scores.items():
        _, _, short = name.partition("/")
        share = any(word in short.split("/") for word in ("accuracy", "format", "parsed", "unparsable"))
        count = short.split("/")[-1] in ("questions", "count")
        told = f"{100 * float(value):.1f} %" if share else f"{float(value):.0f}" if count else f"{float(value):.4g}"
        table.add_row(short, told)
    return table
