"""The one place where a module and its data module meet: each is told what it has to know of the other."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from avrt.data.loading.datamodule import AVDataModule
from avrt.errors import AvrtError
from avrt.training.lightning_internals import place_loops


class ConnectData(pl.Callback):
    """Connects them once the data module is set up and before the module is; modules bring this callback themselves."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Load the policy, give the data module its inputs, and the module what the shards hold.

        Raises:
            AvrtError: If the trainer was given another kind of data module.
        """
        data = data_of(trainer)
        pl_module.load()
        pl_module.connect_data(data, stage)
        data.connect(pl_module.requirements())

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Have a resumed run go on where its training data were left."""
        if trainer.state.fn == TrainerFn.FITTING:
            data = data_of(trainer)
            data.train_state = place_loops(checkpoint, data.train_plan, pl_module.steps_per_epoch())


def data_of(trainer: pl.Trainer) -> AVDataModule:
    """The data module of a trainer.

    Raises:
        AvrtError: If the trainer was given something else.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, AVDataModule):
        raise AvrtError("needs an AVDataModule", where="trainer.fit(datamodule=...)")
    return data
