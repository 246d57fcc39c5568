"""The folder of a training run: where its checkpoints are, and which checkpoint a path selects."""

from __future__ import annotations

from pathlib import Path

from avrt.errors import AvrtError


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
