"""Everything that relies on private parts of Lightning. Written against 2.6; `tests/test_internals.py` checks them.

What is relied on: the record that the fit loop keeps of its progress, the methods by which `ModelCheckpoint` saves, and
how a strategy starts communication.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from avrt.data.loading.plans import Plan


def progress(trainer: pl.Trainer) -> tuple[int, int]:
    """Optimizer steps and batches so far; under dynamic sampling not every batch brings a step."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return trainer.global_step, int(batches.processed)


def progress_in_epoch(trainer: pl.Trainer) -> int:
    """Batches done in the epoch that is being trained."""
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return int(batches.processed)


class OpenModelCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint` with the private parts that we need behind public names."""

    @property
    def interval(self) -> int:
        """After how many optimizer steps it saves; 0 for at the end alone."""
        return self._every_n_train_steps

    def save_now(self, trainer: pl.Trainer) -> None:
        """Save a checkpoint at once, and delete the one before when it is complete."""
        self._save_none_monitor_checkpoint(trainer, self._monitor_candidates(trainer))

    def candidates_for_last(self, trainer: pl.Trainer) -> set[str]:
        """The checkpoints that Lightning takes the newest of for `last`."""
        return super()._find_last_checkpoints(trainer)

    def _find_last_checkpoints(self, trainer: pl.Trainer) -> set[str]:
        return self.candidates_for_last(trainer)


def parser_of(cli: LightningCLI, subcommand: str | None) -> LightningArgumentParser:
    """The parser of a subcommand, which can write a configuration out again."""
    return cli._parser(subcommand)


def group_settings(strategy: Any) -> dict[str, Any]:
    """What a strategy starts communication with, as arguments of `init_process_group`."""
    device = strategy.root_device
    return {
        "backend": strategy._get_process_group_backend(),
        "timeout": strategy._timeout,
        "device_id": device if device.type == "cuda" else None,
    }


def start_cpu_processes(strategy: Any) -> None:
    """Start communication of a DeepSpeed strategy on the CPU, where Lightning would look for GPU indices."""
    reset_seed()
    strategy.set_world_ranks()
    strategy._init_deepspeed_distributed()


def place_loops(checkpoint: dict[str, Any], plan: Plan, steps_per_epoch: int) -> dict[str, int] | None:
    """Make Lightning's loops go on where the training data were left, whatever ended the run that saved them.

    A checkpoint is only ever taken between two batches, and the loader's state then says which samples are done. What
    Lightning counts beside it depends on why it stopped: a run that reached `max_steps` or `max_time` has its epoch
    counted as finished, one that was saved in validation is told to validate again. So its counts are written anew,
    from the loader's state and the number of batches so far alone.

    Args:
        checkpoint: What Lightning is about to restore from; changed in place.
        plan: The training order of this run, which may have other ranks or another batch size.
        steps_per_epoch: After how many steps this run ends an epoch; fewer than the plan's under `limit_train_batches`.

    Returns:
        The state that the loader is to begin from; Lightning hands it over in the middle of an epoch only.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    loaders = loop.get("state_dict", {}).get("combined_loader")
    if not loaders:
        return None
    epoch, consumed = loaders[0]["epoch"], loaders[0]["consumed"]
    done = plan.steps - plan.steps_left(consumed)
    if done >= steps_per_epoch:
        epoch, consumed, done = epoch + 1, 0, 0
    loop["state_dict"]["combined_loader"] = [{"epoch": epoch, "consumed": consumed}]
    batches = loop["epoch_loop.batch_progress"]["total"]["processed"]
    begun = epoch + 1 if done else epoch
    _fill(loop["epoch_progress"], begun, processed=epoch, completed=epoch)
    # In the middle of an epoch: as if saved at the end of a batch, which Lightning then counts as completed itself.
    after_batch = 1 if done else 0
    _fill(loop["epoch_loop.batch_progress"]["total"], batches, completed=batches - after_batch)
    _fill(loop["epoch_loop.batch_progress"]["current"], done, completed=done - after_batch)
    loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    loop["epoch_loop.state_dict"]["_batches_that_stepped"] = batches - after_batch
    for name, progress in loop.items():
        if name.startswith("epoch_loop.val_loop") and name.endswith("progress"):
            _fill(progress, 0)
    for name in [name for name in checkpoint.get("callbacks", {}) if name.startswith("Timer")]:
        # `max_time` is what one run may take: a run that used it up is gone on with by the same command.
        del checkpoint["callbacks"][name]
    return {"epoch": epoch, "consumed": consumed}


def hand_back(checkpoint: dict[str, Any], epoch: int, consumed: int) -> None:
    """Have a checkpoint say that the last batch has not been handed out, so that a resumed run reads it again.

    Args:
        checkpoint: What Lightning is about to save, changed in place.
        epoch: The batch's.
        consumed: What had been consumed of that epoch before it.
    """
    loop = checkpoint["loops"]["fit_loop"]
    loop["state_dict"]["combined_loader"] = [{"epoch": epoch, "consumed": consumed}]
    loop["epoch_loop.batch_progress"]["total"]["processed"] -= 1


def _fill(progress: dict[str, Any], count: int, **others: int) -> None:
    """Set every count of a progress record, nested ones too; `others` names those that differ."""
    for name, value in progress.items():
        if isinstance(value, dict):
            _fill(value, count, **others)
        elif not isinstance(value, bool):
            progress[name] = others.get(name, count)
