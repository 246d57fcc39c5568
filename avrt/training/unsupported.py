"""Options of Lightning that cannot work here, each refused before anything is loaded, with what does the same."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException

from avrt.errors import AvrtError

_CLIP = "--trainer.strategy.gradient_clip_norm does it"
_BATCH = (
    "--data.batch_size is the number of samples per rank and optimizer step, "
    "--model.micro_batch_size how many of them are computed at a time"
)
# Field of the trainer -> whether a value can work, and what to set instead.
_REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "gradient_clip_val": (lambda value: not value, _CLIP),
    "gradient_clip_algorithm": (lambda value: value is None, f"{_CLIP}, by the norm"),
    "accumulate_grad_batches": (lambda value: value == 1, _BATCH),
    "enable_checkpointing": (
        lambda value: value is not False,
        "--checkpoint.every_n_train_steps 0 saves at the end alone, --trainer.fast_dev_run true nothing",
    ),
    "overfit_batches": (
        lambda value: not value,
        "--trainer.limit_train_batches N with --data.shuffle false and --trainer.max_epochs trains on the same few",
    ),
    "reload_dataloaders_every_n_epochs": (lambda value: not value, "the data are shuffled anew each epoch already"),
    "barebones": (lambda value: not value, "--trainer.logger false, --trainer.enable_progress_bar false"),
    "sync_batchnorm": (lambda value: not value, "leave it out: the models have no batch norm"),
    "use_distributed_sampler": (lambda value: value is not False, "leave it out: the plan of batches does this"),
}
_NOT_AS_SLURM = ("You set `--ntasks=", "You set `devices=", "You set `num_nodes=")
"""How Lightning begins where the trainer's processes are not those that Slurm has."""
_LOGGERS = {
    "WandbLogger": "wandb",
    "MLFlowLogger": "mlflow",
    "CometLogger": "comet_ml",
    "NeptuneLogger": "neptune",
    "LitLogger": "litlogger",
}


def check_trainer_options(trainer: Any) -> None:
    """Refuse what cannot work.

    Args:
        trainer: The parsed fields of `trainer`.

    Raises:
        AvrtError: Naming the field and what does the same.
    """
    for name, (works, remedy) in _REFUSED.items():
        if not works(value := trainer.get(name)) and value is not None:
            raise AvrtError(f"{value} cannot work here", where=f"trainer.{name}", remedy=remedy)
    loggers = trainer.get("logger")
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if hasattr(logger, "get"):
            _check_logger(logger.get("class_path", "").rpartition(".")[2], logger.get("init_args") or {})


def _check_logger(kind: str, settings: Any) -> None:
    package = _LOGGERS.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        install = f"'avrt[{package}]'" if package in ("wandb", "mlflow") else package
        raise AvrtError(f"{kind} needs the package {package}", where="trainer.logger", remedy=f"pip install {install}")
    if kind == "MLFlowLogger" and not os.environ.get("MLFLOW_ALLOW_FILE_STORE"):
        address = settings.get("tracking_uri") or os.environ.get("MLFLOW_TRACKING_URI") or "file:"
        if address.startswith("file:"):
            raise AvrtError(
                "MLflow keeps no runs in plain files any more",
                where="trainer.logger.tracking_uri",
                remedy="set it to a server's address, or to a file of SQLite such as sqlite:///mlflow.db",
            )


def plain_error(error: BaseException) -> AvrtError | None:
    """A setting that Lightning or the network refuses, as one line; None for everything else."""
    if isinstance(error, MisconfigurationException):
        return AvrtError(" ".join(str(error).split()), where="trainer")
    if isinstance(error, (RuntimeError, OSError)) and "EADDRINUSE" in str(error):
        return AvrtError(
            "the port at which the processes of a run meet is in use",
            where="MASTER_PORT",
            remedy=f"set another one in the environment, e.g. MASTER_PORT={_free_port()}",
        )
    if isinstance(error, (RuntimeError, ValueError)) and str(error).startswith(_NOT_AS_SLURM):
        return AvrtError(" ".join(str(error).split()), where="trainer.devices, trainer.num_nodes")
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
