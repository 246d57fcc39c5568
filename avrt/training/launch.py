"""The one LightningCLI call behind `avrt fit|validate|test|predict`, with errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
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
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from avrt.arguments import OneLineErrors
from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.run_folder import LAST, LAST_OR_NEW, check_new_run, find_checkpoint
from avrt.training.as_trained import SPLITS, parse_as_trained
from avrt.training.benchmark_module import BenchmarkModule
from avrt.training.callbacks import CountSamples, PrintAnswers, ReportSkipped, ShowRollouts
from avrt.training.checkpoints import RunCheckpoint, is_trial
from avrt.training.evaluation_module import EvaluationModule
from avrt.training.evaluation_strategy import on_nodes, use_plain_strategy
from avrt.training.lifeline import close_lifeline, lost
from avrt.training.lightning_internals import parser_of
from avrt.training.meeting import Start, same_options
from avrt.training.nodes import OnNodes
from avrt.training.quiet import be_quiet
from avrt.training.run_lines import WarnUnrewarded, end_of_evaluation, end_of_fit, versions_and_devices
from avrt.training.run_log.options import flat_options
from avrt.training.run_progress import RunProgress
from avrt.training.strategy import OmniDeepSpeedStrategy
from avrt.training.texts import texts_kept
from avrt.training.training_module import TrainingModule
from avrt.training.unsupported import check_trainer_options, plain_error

STOP_WITH_PARENT = "AVRT_STOP_WITH_PARENT"
"""Set in the environment of runs that must not outlive the process that started them."""
EVALUATIONS = ("validate", "test", "predict")
"""The commands that train nothing."""


class OneLineParser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with errors in one line."""


class SaveConfig(SaveConfigCallback):
    """Keep the configuration beside the logs, but not that of a trial run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file."""
        if not is_trial(trainer):
            super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the loggers of a training run keep its options."""
        if isinstance(pl_module, TrainingModule) and stage == "fit":
            pl_module.run_options = flat_options(self.config.as_dict())


class AvrtCLI(LightningCLI):
    """LightningCLI over the student modules and the one data module."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give the callbacks that every run has fields of their own, since a list is awkward to override."""
        parser.add_lightning_class_args(RunCheckpoint, "checkpoint")
        parser.add_lightning_class_args(ShowRollouts, "show_rollouts")
        parser.add_argument(
            "--verbose", action="store_true", help="show also what Lightning, PyTorch and DeepSpeed say at every start"
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without its own `verbose`, which prints a table of scores: we print one.

        The one that was typed alone, as far as it is one: each parser takes 40 ms to build.
        """
        ours = {name: skipped | {"verbose"} for name, skipped in LightningCLI.subcommands().items()}
        return {name: ours[name] for name in sys.argv[1:2] if name in ours} or ours

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line with its texts kept, and what nobody set as in the student's training."""
        with texts_kept(sys.argv[1:] if args is None else args) as arguments:
            command = arguments[0] if arguments and arguments[0] in SPLITS else None
            self.config = parse_as_trained(parser.parse_args, arguments, command)
        command = self.config.get("subcommand")
        settings = self.config[command] if command else self.config
        be_quiet(verbose=settings.verbose)
        if settings.trainer.enable_model_summary is None:
            settings.trainer.enable_model_summary = settings.verbose
        if settings.trainer.enable_progress_bar is not False and not _has_progress_bar(settings.trainer):
            self.trainer_defaults["callbacks"].append(RunProgress())
        if command in EVALUATIONS:
            use_plain_strategy(settings.trainer)
        if settings.trainer.num_nodes > 1 and settings.trainer.strategy in ("auto", "ddp"):
            settings.trainer.strategy = on_nodes()

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
            node = os.environ.get("NODE_RANK", "0")  # which Lightning takes for a number
            if not node.isdecimal() and repr(node) in str(cause):
                remedy = "set it to 0 on the first node, 1 on the next, and so on"
                raise AvrtError(f"{node} is not the number of a node", where="NODE_RANK", remedy=remedy) from None
            if isinstance(cause, ValueError) and cause is not error:
                raise AvrtError(str(cause).splitlines()[0], where="configuration") from None
            raise
        if self.subcommand:
            rank_zero_info(versions_and_devices(self.trainer))

    def before_fit(self) -> None:
        """Find the checkpoint to go on from, or see that a new run has a folder of its own; and find compilers."""
        with self._told_to_all_nodes():
            self._find_checkpoint()
            if self.config_init["fit"].get("ckpt_path") is None and not is_trial(self.trainer):
                check_new_run(Path(self.trainer.default_root_dir))
            if isinstance(self.trainer.strategy, OmniDeepSpeedStrategy):
                self.trainer.strategy.check_compilers()

    def before_validate(self) -> None:
        """Find the checkpoint to evaluate."""
        with self._told_to_all_nodes():
            self._find_checkpoint()
            self._let_module_load()

    def before_predict(self) -> None:
        """Find the checkpoint to answer with."""
        with self._told_to_all_nodes():
            self._find_checkpoint()
            self._let_module_load()

    def validate(self, **arguments: Any) -> None:
        """Validate, and keep the scores for a table of our own."""
        [self.scores] = self.trainer.validate(**arguments, verbose=False) or [{}]

    def test(self, **arguments: Any) -> None:
        """Test, and keep the scores for a table of our own."""
        [self.scores] = self.trainer.test(**arguments, verbose=False) or [{}]

    def after_fit(self) -> None:
        """Say where the checkpoint is."""
        end_of_fit(self.trainer)

    def after_validate(self) -> None:
        """Print the scores."""
        end_of_evaluation(self.trainer, self.model, self.scores)

    def after_test(self) -> None:
        """Print the scores, and say where the predictions are."""
        end_of_evaluation(self.trainer, self.model, self.scores)

    def after_predict(self) -> None:
        """Say where the predictions are."""
        end_of_evaluation(self.trainer, self.model)

    @contextlib.contextmanager
    def _told_to_all_nodes(self) -> Iterator[None]:
        """Where several nodes begin a run, an error of one ends all, once they have met."""
        strategy, settings = self.trainer.strategy, self.config_init[str(self.subcommand)]
        if not isinstance(strategy, OnNodes) or strategy.num_nodes == 1:
            yield
            return
        given, error = settings.get("ckpt_path"), None
        try:
            yield
        except AvrtError as met:
            error = met
        found = settings.get("ckpt_path") or self.model.checkpoint
        strategy.begin(
            Start(
                folder=Path(self.trainer.default_root_dir),
                writes=not is_trial(self.trainer),
                given=None if given is None else str(given),
                checkpoint=None if found is None or error is not None else Path(found),
                error=error,
                fits=self.subcommand == "fit",
                options=same_options(self.config[str(self.subcommand)].as_dict()),
            )
        )

    def _find_checkpoint(self) -> None:
        command = str(self.subcommand)
        settings, run = self.config_init[command], Path(self.trainer.default_root_dir)
        if (given := settings.get("ckpt_path")) is not None:
            found = find_checkpoint(str(given), run, command)
            settings["ckpt_path"] = found
            if given in (LAST, LAST_OR_NEW):
                rank_zero_info(f"checkpoint: {found or f'none in {run}: a new run begins'}")

    def _let_module_load(self) -> None:
        """Let the module read its checkpoint itself, whatever strategy wrote it.

        A strategy reads what it has written alone; only stage 3 has to, since nobody else holds whole weights there.
        """
        settings = self.config_init[str(self.subcommand)]
        given = settings.get("ckpt_path")
        reads = isinstance(self.model, BenchmarkModule) or not isinstance(self.trainer.strategy, OmniDeepSpeedStrategy)
        if given is not None and reads and "://" not in str(given):
            self.model.checkpoint = Path(given)
            settings["ckpt_path"] = None

    def before_test(self) -> None:
        """Also record the configuration that repeats a benchmark.

        Its student comes from the checkpoint's own record, for any strategy and number of processes that made it or
        that ask the questions now.
        """
        with self._told_to_all_nodes():
            self._find_checkpoint()
            self._let_module_load()
        if not isinstance(self.model, BenchmarkModule):
            return
        self.model.config_text = parser_of(self, self.subcommand).dump(self.config[self.subcommand], skip_none=False)


def main(subcommand_and_args: list[str]) -> None:
    """Run LightningCLI.

    Args:
        subcommand_and_args: What follows `avrt`, with configuration names already turned into paths.
    """
    if os.environ.get(STOP_WITH_PARENT):
        threading.Thread(target=_stop_with_parent, args=(os.getppid(),), daemon=True).start()
    met: BaseException | None = None
    try:
        _make_cli(subcommand_and_args, run=True)
    except Exception as error:
        met = lost(error) or plain_error(error) or error
        if met is error:
            raise
        raise met from None
    except SystemExit as error:
        met = error
        if isinstance(error, SIGTERMException) and error.code is None:
            error.code = 128 + signal.SIGTERM  # Lightning gives none, which is success
        # Lightning ends an interrupted run with status 1.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    finally:
        close_lifeline(met)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Its threads would race with the end of the interpreter, which now and then aborts a run that has succeeded.
        torch.distributed.destroy_process_group()


def _stop_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, so that nothing goes on that nobody waits for."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _has_progress_bar(trainer: Any) -> bool:
    """Whether the parsed fields of a trainer name a progress bar among its callbacks."""
    given = trainer.callbacks or []
    for callback in given if isinstance(given, list) else [given]:
        module, _, name = callback.class_path.rpartition(".")
        if issubclass(getattr(importlib.import_module(module), name), ProgressBar):
            return True
    return False


def read_config(arguments: list[str]) -> tuple[EvaluationModule, AVDataModule, Trainer]:
    """The module, data module and trainer that a configuration describes, with nothing run.

    Args:
        arguments: What would follow `avrt fit`.
    """
    cli = _make_cli(arguments, run=False)
    return cli.model, cli.datamodule, cli.trainer


def _make_cli(arguments: list[str], *, run: bool) -> AvrtCLI:
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
        trainer_defaults={"callbacks": [ReportSkipped(), CountSamples(), PrintAnswers(), WarnUnrewarded()]},
        run=run,
        auto_configure_optimizers=False,  # --optimizer would replace ours; model.optimizer sets it
        **settings,
    )
