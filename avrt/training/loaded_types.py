"""The guard of precision: a run computes with the very weights and buffers that were loaded, or it does not start.

The policy of a run is that of `model.student.dtype`: weights in that type, RoPE's frequencies and other buffers in
float32, and no `torch.autocast`. An export, an evaluation and vLLM load it so too. Lightning and DeepSpeed can change
it on the way to the first step, which is looked at here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from avrt.errors import AvrtError
from avrt.training.strategy import OmniDeepSpeedStrategy

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
"""`model.student.dtype` -> the precision by which Lightning's DeepSpeed plugin leaves a module as it was loaded."""


class LoadedTypes:
    """What a module was like when it had been loaded.

    Args:
        module: The module before a strategy has touched it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._types = {name: parameter.dtype for name, parameter in module.named_parameters()}
        self._buffers = {name: _copy(buffer) for name, buffer in module.named_buffers()}

    def check(self, module: nn.Module, trainer: pl.Trainer, dtype: str) -> None:
        """Refuse a strategy or plugin that has rounded something, or that would compute in other types.

        Args:
            module: The same module, as the strategy has set it up.
            trainer: Its trainer.
            dtype: `model.student.dtype`.

        Raises:
            AvrtError: Naming the plugin, what it rounds, and the precision to set.
        """
        plugin = trainer.precision_plugin
        deepspeed = isinstance(trainer.strategy, OmniDeepSpeedStrategy)
        right = PRECISIONS[dtype] if deepspeed else "32-true"
        remedy = f"set --trainer.precision {right}, which leaves weights in {dtype} and buffers as they are"
        named = f"{plugin.precision} ({type(plugin).__name__})"
        buffers = {name: _copy(buffer) for name, buffer in module.named_buffers()}
        changed = [name for name, before in self._buffers.items() if name in buffers and _differ(before, buffers[name])]
        if changed:
            first = changed[0]
            raise AvrtError(
                f"{named} rounds {len(changed)} buffers, e.g. {first} "
                f"({_type(self._buffers[first])}, now {_type(buffers[first])}): "
                "the trained policy would differ from its export",
                where="trainer.precision",
                remedy=remedy,
            )
        rounded = Counter(
            (_name(self._types[name]), _name(parameter.dtype))
            for name, parameter in module.named_parameters()
            if name in self._types and parameter.dtype != self._types[name]
        )
        if rounded:
            [((loaded, now), count)] = rounded.most_common(1)
            raise AvrtError(
                f"{named} turns {count} weights of {loaded} into {now}", where="trainer.precision", remedy=remedy
            )
        contexts: tuple[Callable[[], Any], ...] = (plugin.train_step_context, plugin.val_step_context)
        for context in contexts:
            with context():
                if torch.is_autocast_enabled(trainer.strategy.root_device.type):
                    raise AvrtError(
                        f"{named} computes under torch.autocast, in other types than the export",
                        where="trainer.precision",
                        remedy=remedy,
                    )


def _copy(buffer: Tensor) -> Tensor:
    return buffer.detach().cpu().clone()


def _differ(before: Tensor, after: Tensor) -> bool:
    return before.dtype != after.dtype or not torch.equal(before, after)


def _type(buffer: Tensor) -> str:
    return f"{_name(buffer.dtype)} {buffer.flatten()[-1].item():.6g}" if buffer.numel() else _name(buffer.dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
