"""Saving: a policy as a folder that other software loads."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from avrt.errors import AvrtError
from avrt.models.parameter_types import convert_parameters
from avrt.policy.input_settings import InputSettings
from avrt.policy.policy import Policy


def export_policy(
    policy: Policy,
    folder: Path,
    *,
    settings: InputSettings | None = None,
    full_layout: bool = False,
    dtype: torch.dtype | None = None,
) -> None:
    """Write weights (safetensors), configuration, processor, and how the student is asked.

    Args:
        policy: What to write, with adapters merged; it can be trained on.
        folder: Where to; created if missing.
        settings: How it was trained to be asked; None where that is not known.
        full_layout: Write the layout of the released checkpoints, which vLLM expects, instead of the model alone.
        dtype: Round the weights, also those of `policy`, to this type; None keeps them as they are.

    Raises:
        AvrtError: If the folder already holds a model.
    """
    if (folder / "config.json").exists():
        raise AvrtError("already holds a model", where=folder, remedy="choose another --out or delete it")
    if dtype is not None:
        convert_parameters(policy.model, dtype)
    policy.save_model(folder, dtype)
    policy.inputs.processor.save_pretrained(folder)
    if full_layout:
        policy.family.to_released_layout(folder)
    if settings is not None:
        settings.save(folder)
    _readable(folder)


def export_adapters(policy: Policy, folder: Path, *, settings: InputSettings | None = None) -> None:
    """Write a policy's adapters alone, as peft reads them, and how the student is asked.

    Args:
        policy: What to write.
        folder: Where to; created if missing.
        settings: How it was trained to be asked; None where that is not known.

    Raises:
        AvrtError: If the folder already holds adapters, or the policy has none.
    """
    if (folder / "adapter_config.json").exists():
        raise AvrtError("already holds adapters", where=folder, remedy="choose another --out or delete it")
    policy.save_adapters(folder)
    if settings is not None:
        settings.save(folder)
    _readable(folder)


def _readable(folder: Path) -> None:
    """Let others read the weights: safetensors lets nobody."""
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o666 & ~_umask())


def _umask() -> int:
    """The bits that this process' files lack; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
