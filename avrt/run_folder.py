"""The folder of a training run: where its checkpoints are, and which checkpoint a path selects."""

from __future__ import annotations

from pathlib import Path

from avrt.errors import AvrtError

LAST, LAST_OR_NEW = "last", "last_or_new"
RUNS = Path("runs")
"""The folder below which the packaged configurations place their runs."""


def checkpoint_folder(run: Path) -> Path:
    """The folder of a run's checkpoints."""
    return run / "checkpoints"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a complete checkpoint.

    DeepSpeed writes the file `latest` last; other strategies write a single file.
    """
    return path.is_file() or (path / "latest").is_file()


def complete_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last."""
    found = [path for path in checkpoint_folder(run).glob("step-*.ckpt") if is_checkpoint(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def is_run(path: Path) -> bool:
    """Whether a folder is the folder of a training run."""
    return checkpoint_folder(path).is_dir()


def is_trained(path: Path) -> bool:
    """Whether a path is a training run or a checkpoint, rather than a model."""
    return is_run(path) or is_checkpoint(path)


def checkpoint_at(path: Path) -> Path:
    """The newest complete checkpoint if the path is a run's folder, else the path itself.

    Raises:
        AvrtError: If the run has no complete checkpoint.
    """
    if not is_run(path):
        return path
    found = complete_checkpoints(path)
    if not found:
        raise AvrtError("there is no complete checkpoint", where=checkpoint_folder(path))
    return found[-1]


def newest_run(below: Path = RUNS) -> Path | None:
    """The run whose newest complete checkpoint is the newest of all runs below a folder; None if there is none.

    Args:
        below: The folder; by default `runs` in the working folder.
    """
    runs = [folder.parent for folder in below.rglob("checkpoints") if folder.is_dir()]
    newest = {run: found[-1].stat().st_mtime for run in runs if (found := complete_checkpoints(run))}
    return max(newest, key=newest.__getitem__) if newest else None


def find_checkpoint(given: str, run: Path | None, command: str) -> str | None:
    """What `--ckpt_path` means: a checkpoint, a run's folder, `last`, or for a fit `last_or_new`.

    `last` is the newest checkpoint of the configured run. Where that has none, and nothing is trained, it is that of
    the newest run below `runs`.

    Args:
        given: What was given.
        run: The configured run's folder, if there is one.
        command: The command, such as `fit` or `export`.

    Returns:
        The path; None for a new run.

    Raises:
        AvrtError: If there is no such checkpoint.
    """
    fits = command == "fit"
    if given == LAST_OR_NEW and not fits:
        raise AvrtError(f"{LAST_OR_NEW} is for `avrt fit` alone", where="ckpt_path", remedy=f"use {LAST}, or a path")
    if given in (LAST, LAST_OR_NEW):
        found = [] if run is None else complete_checkpoints(run)
        if not found and not fits and (newest := newest_run()) is not None:
            found = complete_checkpoints(newest)
        if found:
            return str(found[-1])
        if given == LAST_OR_NEW:
            return None
        where = checkpoint_folder(run) if run is not None else RUNS
        raise AvrtError("there is no complete checkpoint", where=where, remedy=_without_last(run, fits=fits))
    if "://" not in given and not Path(given).exists():
        raise AvrtError(
            "no such checkpoint", where=given, remedy=f"set --ckpt_path to one, to a run's folder, or to {LAST}"
        )
    if "://" in given:
        return given
    path = Path(given)
    if path.is_dir() and path.suffix != ".ckpt" and not is_trained(path):
        raise AvrtError(
            "is neither a run's folder nor a checkpoint", where=given, remedy=f"set --ckpt_path to one, or to {LAST}"
        )
    return str(checkpoint_at(path))


def _without_last(run: Path | None, *, fits: bool) -> str:
    if fits:
        return (
            "set --trainer.default_root_dir to the run's folder, or --ckpt_path to a checkpoint; "
            f"--ckpt_path {LAST_OR_NEW} begins a new run where there is none"
        )
    elsewhere = f" nor below {RUNS}" if run is not None else ""
    return f"there is none{elsewhere}: set --ckpt_path to a checkpoint or to a run's folder"


def check_new_run(run: Path) -> None:
    """Refuse to begin a new run in the folder of an earlier one, whose checkpoints it would mix with its own.

    Raises:
        AvrtError: If there are checkpoints.
    """
    if found := complete_checkpoints(run):
        raise AvrtError(
            f"holds the checkpoints of an earlier run ({found[-1].name})",
            where=run,
            remedy=f"--ckpt_path {LAST} goes on with it, --trainer.default_root_dir DIR begins a new run elsewhere",
        )
