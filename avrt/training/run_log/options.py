"""A run's options as flat names and values, as they are typed on the command line: `model.optimizer.lr`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from avrt.training.run_log.writer import Option

_TRAINER = (
    "devices", "num_nodes", "precision", "max_epochs", "max_steps", "limit_train_batches", "log_every_n_steps",
    "strategy",
)  # fmt: skip
# What changes neither the student that comes out nor what is measured of it.
_LEFT_OUT = (
    "data.test", "data.predict", "data.ask", "data.num_workers", "data.cache", "data.cache_gigabytes",
    "data.fetch_ahead", "data.keep_gigabytes", "data.shard_window", "trainer.strategy.reduce_bucket_size",
    "trainer.strategy.allgather_bucket_size", "trainer.strategy.overlap_comm", "trainer.strategy.pin_memory",
    "trainer.strategy.gather_for_generation", "trainer.strategy.patience_minutes",
)  # fmt: skip


def flat_options(config: Mapping[str, Any]) -> dict[str, Option]:
    """The options that make the student what it is, and say on what.

    Args:
        config: The parsed configuration of `avrt fit`, as nested dicts.

    Returns:
        Name -> value; options that are not set are left out, and a list is a text.
    """
    parts = {
        "seed_everything": config.get("seed_everything"),
        "model": config.get("model"),
        "data": config.get("data"),
        "trainer": {name: value for name, value in config.get("trainer", {}).items() if name in _TRAINER},
    }
    return {
        name: value
        for name, value in flat("", parts)
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in _LEFT_OUT)
    }


def flat(name: str, value: Any) -> Iterator[tuple[str, Option]]:
    """Names and values of what is set below an option; of a class also its name, and a list is a text."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            yield name, str(value["class_path"]).rpartition(".")[2]
            value = value.get("init_args") or {}
        for key, inner in value.items():
            yield from flat(f"{name}.{key}" if name else str(key), inner)
    elif isinstance(value, (bool, int, float, str)):
        yield name, value
    elif value is not None:
        yield name, json.dumps(value, default=str)
