"""Where a training run keeps its checkpoints, and which of them a path means."""

from __future__ import annotations

from pathlib import Path

from avrt.errors import AvrtError


def checkpoint_folder(run: Path) -> Path:
    """Where a run keeps its checkpoints."""
    return run / "checkpoints"


def is_checkpoint(path: Path) -> bool:
    """Whether a path is a complete checkpoint.

    DeepSpeed writes the file `latest` when everything else is on disk; other strategies write a single file.
    """
    return path.is_file() or (path / "latest").is_file()


def complete_checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, the newest last."""
    found = [path for path in checkpoint_folder(run).glob("step-*.ckpt") if is_checkpoint(path)]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a training run."""
    return checkpoint_folder(path).is_dir()


def is_trained(path: Path) -> bool:
    """Whether a path names a training run or a checkpoint, rather than a model."""
    return is_run(path) or is_checkpoint(path)


def checkpoint_at(path: Path) -> Path:
    """The checkpoint that a path means: of a run's folder the newest complete one, else the path itself.

    Raises:
        AvrtError: If a run has none.
    """
    if not is_run(path):
        return path
    found = complete_checkpoints(path)
    if not found:
        raise AvrtError("there is no complete checkpoint", where=checkpoint_folder(path))
    return found[-1]
