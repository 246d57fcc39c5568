"""The one place where a module and its data module meet: each is told what it has to know of the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import lightning.pytorch as pl

from avrt.data.loading.datamodule import AVDataModule
from avrt.distributed import gather_objects
from avrt.errors import AvrtError
from avrt.training.lightning_internals import place_loops


class ConnectData(pl.Callback):
    """Connects them once the data module is set up and before the module is; modules bring this callback themselves."""

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Load the policy, start vLLM if it is used, and tell data module and module what they have to know.

        Raises:
            AvrtError: If the trainer has another kind of data module, or the module has no such stage.
        """
        data = data_of(trainer)
        pl_module.check_stage(stage)
        if trainer.num_nodes > 1:
            check_same_shards(gather_objects(data.digests()))
        if stage == "fit":
            data.check_training_samples(traces=pl_module.needs_traces, answers=pl_module.needs_answers)
            pl_module.resume_data = partial(_resume_data, data, pl_module)
        pl_module.load()
        pl_module.start_engine(stage)
        pl_module.connect_data(data, stage)
        data.connect(pl_module.requirements())

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """End what runs beside this process: Lightning does not tear modules down when a run fails."""
        pl_module.close_engine()


def check_same_shards(each: Sequence[Mapping[str, str]]) -> None:
    """Refuse a run whose processes read different shards, each from a folder of its node.

    Args:
        each: Of each process, option -> checksum of its shards.

    Raises:
        AvrtError: Naming the option and the process.
    """
    for rank, theirs in enumerate(each):
        for option in sorted(each[0].keys() | theirs.keys()):
            if each[0].get(option) != theirs.get(option):
                raise AvrtError(
                    f"the shards that process {rank} reads are not those of process 0",
                    where=option,
                    remedy="give every node the same ones",
                )


def _resume_data(data: AVDataModule, pl_module: Any, checkpoint: dict[str, Any]) -> None:
    """Have a resumed run go on where its training data were left."""
    data.train_state = place_loops(checkpoint, data.train_plan, pl_module.steps_per_epoch())


def data_of(trainer: pl.Trainer) -> AVDataModule:
    """The data module of a trainer.

    Raises:
        AvrtError: If the trainer was given something else.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, AVDataModule):
        raise AvrtError(
            "needs an AVDataModule", where="trainer.fit(datamodule=...)", remedy="shards become batches in it alone"
        )
    return data
