"""The one LightningCLI call behind `avrt fit|validate|test|predict`, with errors in one line."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

if not torch.cuda.is_available():
    # Before anything imports deepspeed, which would otherwise look for accelerators and warn.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
if os.access(sys.prefix, os.W_OK):
    # DeepSpeed compiles its optimizer at first use, for minutes. In PyTorch's folder, which all environments share, two
    # of them would replace each other's build at every start, and all their runs would wait for it.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(sys.prefix) / "var" / "torch_extensions"))

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from avrt.arguments import OneLineErrors
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.run_folder import LAST, LAST_OR_NEW, check_new_run, find_checkpoint
from avrt.training.as_trained import SPLITS, parse_as_trained
from avrt.training.benchmark_module import BenchmarkModule
from avrt.training.callbacks import CountSamples, PrintAnswers, ReportSkipped, ShowRollouts
from avrt.training.checkpoints import RunCheckpoint, is_trial
from avrt.training.evaluation_module import EvaluationModule
from avrt.training.lightning_internals import parser_of
from avrt.training.texts import texts_kept
from avrt.training.unsupported import check_trainer_options, plain_error

STOP_WITH_PARENT = "AVRT_STOP_WITH_PARENT"
"""Set in the environment of runs that must not outlive the process that started them."""
_NOISE = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*sync_dist=True.*when logging on epoch level.*",
    ".*The `srun` command is available.*",
    ".*Using ModelCheckpoint with manual optimization.*",  # the state after the step is the one to resume from
    ".*in eval mode at the start of training.*",  # the frozen towers and the reference, as they should be
)


class OneLineParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with errors in one line."""


class SaveConfig(SaveConfigCallback):
    """Keep the configuration beside the logs, but not that of a trial run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file."""
        if not is_trial(trainer):
            super().setup(trainer, pl_module, stage)


class AvrtCLI(LightningCLI):
    """LightningCLI over the student modules and the one data module."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the callbacks that every run has fields of their own, since a list is awkward to override."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ShowRollouts, "show_rollouts")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line with its texts kept, and what nobody set as in the student's training."""
        with texts_kept(sys.argv[1:] if args is None else args) as arguments:
            command = arguments[0] if arguments and arguments[0] in SPLITS else None
            self.config = parse_as_trained(parser.parse_args, arguments, command)

    def instantiate_classes(self) -> None:
        """Make everything that the configuration describes.

        Raises:
            AvrtError: If one of its values is refused; what the parser wraps around that is taken off.
        """
        settings = self.config[self.subcommand] if self.subcommand else self.config
        check_trainer_options(settings.trainer)
        try:
            super().instantiate_classes()
        except ValueError as error:
            cause: BaseException = error
            while not isinstance(cause, AvrtError) and (inner := cause.__cause__ or cause.__context__) is not None:
                cause = inner
            if isinstance(cause, AvrtError):
                raise cause from None
            if isinstance(cause, ValueError) and cause is not error:
                raise AvrtError(str(cause).splitlines()[0], where="configuration") from None
            raise

    def before_fit(self) -> None:
        """Find the checkpoint to go on from, or see that a new run does not begin in the folder of another."""
        self._find_checkpoint()
        if self.config_init["fit"].get("ckpt_path") is None and not is_trial(self.trainer):
            check_new_run(Path(self.trainer.default_root_dir))

    def before_validate(self) -> None:
        """Find the checkpoint to evaluate."""
        self._find_checkpoint()

    def before_predict(self) -> None:
        """Find the checkpoint to answer with."""
        self._find_checkpoint()

    def _find_checkpoint(self) -> None:
        command = str(self.subcommand)
        settings, run = self.config_init[command], Path(self.trainer.default_root_dir)
        if (given := settings.get("ckpt_path")) is not None:
            found = find_checkpoint(str(given), run, command)
            settings["ckpt_path"] = found
            if given in (LAST, LAST_OR_NEW):
                rank_zero_info(f"checkpoint: {found or f'none in {run}: a new run begins'}")

    def before_test(self) -> None:
        """Let a benchmark load its checkpoint itself, and record the configuration that repeats it.

        Its student comes from the checkpoint's own record, for any strategy and number of processes that made it or
        that ask the questions now.
        """
        self._find_checkpoint()
        if not isinstance(self.model, BenchmarkModule):
            return
        settings = self.config_init[self.subcommand]
        if settings.get("ckpt_path") is not None:
            self.model.checkpoint = Path(settings["ckpt_path"])
            settings["ckpt_path"] = None
        self.model.config_text = parser_of(self, self.subcommand).dump(self.config[self.subcommand], skip_none=False)


def main(subcommand_and_args: list[str]) -> None:
    """Run LightningCLI.

    Args:
        subcommand_and_args: What follows `avrt`, with configuration names already turned into paths.
    """
    if os.environ.get(STOP_WITH_PARENT):
        threading.Thread(target=_stop_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _make_cli(subcommand_and_args, run=True)
    except Exception as error:
        if (plain := plain_error(error)) is None:
            raise
        raise plain from None
    except SystemExit as error:
        # Lightning ends an interrupted run with status 1.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Its threads would race with the end of the interpreter, which now and then aborts a run that has succeeded.
        torch.distributed.destroy_process_group()


def _stop_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, so that nothing goes on that nobody waits for."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def read_config(arguments: list[str]) -> tuple[EvaluationModule, AVDataModule, Trainer]:
    """The module, data module and trainer that a configuration describes, with nothing run.

    Args:
        arguments: What would follow `avrt fit`.
    """
    cli = _make_cli(arguments, run=False)
    return cli.model, cli.datamodule, cli.trainer


def _make_cli(arguments: list[str], *, run: bool) -> AvrtCLI:
    for pattern in _NOISE:
        warnings.filterwarnings("ignore", pattern)
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.utils.logging.disable_progress_bar()
    torch.set_float32_matmul_precision("high")  # TF32 where there is a GPU that has it
    # Lightning starts further processes from sys.argv, and warns if it is given arguments beside it.
    sys.argv[1:] = arguments
    settings: dict[str, Any] = {
        "parser_class": OneLineParser,
        "save_config_callback": SaveConfig,
        "save_config_kwargs": {"overwrite": True},
    }
    return AvrtCLI(
        EvaluationModule,
        AVDataModule,
        subclass_mode_model=True,
        subclass_mode_data=False,
        seed_everything_default=0,
        trainer_defaults={"callbacks": [ReportSkipped(), CountSamples(), PrintAnswers()]},
        run=run,
        auto_configure_optimizers=False,  # --optimizer would replace ours; model.optimizer sets it
        **settings,
    )
