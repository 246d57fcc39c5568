"""A policy from a training checkpoint: its source's weights with the trained ones put over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from avrt.errors import AvrtError
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.training.deepspeed_internals import is_complete, saved_record, trained_weights


def policy_from_checkpoint(path: Path, source: str | None = None) -> Policy:
    """Rebuild a student from a training checkpoint: its source's weights with the trained ones put over them.

    Works for every ZeRO stage and whatever number of processes wrote the checkpoint. The file format is DeepSpeed's,
    which is read by unpickling: open only checkpoints whose origin you trust.

    Args:
        path: A checkpoint folder of DeepSpeed.
        source: Where the student was loaded from, if it has moved since.

    Raises:
        AvrtError: If it is no such checkpoint, or does not fit the source.
    """
    if not is_complete(path):
        raise AvrtError(
            "not a complete DeepSpeed checkpoint", where=path, remedy="set --ckpt_path to a step-*.ckpt folder"
        )
    options = checkpoint_options(path)
    if source is not None:
        options["source"] = source
    policy = load_policy(StudentOptions(**options))
    trained = trained_weights(path)
    prefix = "policy.model."
    weights = {name.removeprefix(prefix): tensor for name, tensor in trained.items() if name.startswith(prefix)}
    # With tied embeddings one tensor goes by two names, and DeepSpeed writes both.
    parameters = dict(policy.model.named_parameters(remove_duplicate=False))
    expected = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if expected != set(weights):
        raise AvrtError(
            f"does not fit {policy.options.source}: {len(expected ^ set(weights))} parameters differ", where=path
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
    return policy


def checkpoint_options(path: Path) -> dict[str, Any]:
    """The options of the student that a checkpoint was made with."""
    options = dict(saved_record(path)["student"])
    # How it was trained, not what: it may be read on another machine.
    options |= {"gradient_checkpointing": False, "fused_layers": "auto"}
    if options["lora"] is not None:
        options["lora"] = LoraOptions(**options["lora"])
    return options
