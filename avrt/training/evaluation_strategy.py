"""Which strategy a run takes where nothing is trained: a plain one, that needs neither DeepSpeed nor a compiler."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from avrt.training.loaded_types import PRECISIONS
from avrt.training.nodes import PlainNodesStrategy
from avrt.training.strategy import OmniDeepSpeedStrategy

PLAIN = {"strategy": "auto", "precision": "32-true"}
"""One process without any, several as PyTorch has them; weights and buffers are computed with as they were loaded."""


def on_nodes(patience_minutes: float | None = None) -> Namespace:
    """The same on several nodes, as parsed fields."""
    name = f"{PlainNodesStrategy.__module__}.{PlainNodesStrategy.__qualname__}"
    given = {} if patience_minutes is None else {"patience_minutes": patience_minutes}
    fields: Namespace = Namespace({"class_path": name, "init_args": Namespace(given)})  # type: ignore[no-untyped-call]
    return fields


def use_plain_strategy(trainer: Any) -> None:
    """Replace DeepSpeed's stages 1 and 2 in the parsed fields of `trainer`, in place.

    They partition gradients and optimizer states, of which evaluation has none. Stage 3 partitions the weights, without
    which a large student may not fit on a device: it stays, and DeepSpeed with it.

    Args:
        trainer: The parsed fields, with the configuration of a training run as a rule.
    """
    strategy = trainer.get("strategy")
    name = f"{OmniDeepSpeedStrategy.__module__}.{OmniDeepSpeedStrategy.__qualname__}"
    if not hasattr(strategy, "get") or strategy.get("class_path") != name or strategy.init_args.get("stage") == 3:
        return
    several = (trainer.get("num_nodes") or 1) > 1
    patience = strategy.init_args.get("patience_minutes")
    trainer["strategy"] = on_nodes(patience) if several else PLAIN["strategy"]
    # Only DeepSpeed's own plugin leaves bfloat16 as it was loaded under that name; another wish is refused later.
    if trainer.get("precision") in PRECISIONS.values():
        trainer["precision"] = PLAIN["precision"]
