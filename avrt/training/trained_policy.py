"""A policy from a training checkpoint: its source's weights with the trained ones put over them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from avrt.errors import AvrtError
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.training.deepspeed_internals import is_complete, saved_record, trained_weights


def policy_from_checkpoint(path: Path, source: str | None = None) -> Policy:
    """Rebuild a student from a training checkpoint: its source's weights with the trained ones put over them.

    Works for every ZeRO stage and whatever number of processes wrote the checkpoint, and for the single file that
    Lightning writes without DeepSpeed. DeepSpeed's format is read by unpickling: open only those whose origin you
    trust.

    Args:
        path: A checkpoint: a folder of DeepSpeed, or a file of Lightning.
        source: Where the student was loaded from, if it has moved since.

    Raises:
        AvrtError: If it is no such checkpoint, or does not fit the source.
    """
    options = checkpoint_options(path)
    if source is not None:
        options["source"] = source
    policy = load_policy(StudentOptions(**options))
    trained = checkpoint_record(path)["state_dict"] if path.is_file() else trained_weights(path)
    prefix = "policy.model."
    weights = {name.removeprefix(prefix): tensor for name, tensor in trained.items() if name.startswith(prefix)}
    # With tied embeddings one tensor goes by two names, and DeepSpeed writes both.
    parameters = dict(policy.model.named_parameters(remove_duplicate=False))
    expected = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if path.is_file():  # which holds the frozen weights too
        weights = {name: tensor for name, tensor in weights.items() if name in expected}
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
    options = dict(checkpoint_record(path)["student"])
    # How it was trained, not what: it may be read on another machine.
    options |= {"gradient_checkpointing": False, "fused_layers": "auto"}
    if options["lora"] is not None:
        options["lora"] = LoraOptions(**options["lora"])
    return options


def checkpoint_record(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside DeepSpeed's own parts.

    Raises:
        AvrtError: If it is no complete checkpoint of a student.
    """
    if path.is_file():
        try:
            record = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else repr(error)
            raise AvrtError(f"not a checkpoint of Lightning: {first}", where=path) from None
    elif is_complete(path):
        record = saved_record(path)
    else:
        raise AvrtError(
            "not a complete DeepSpeed checkpoint", where=path, remedy="set --ckpt_path to a step-*.ckpt folder"
        )
    if not isinstance(record, dict) or "student" not in record:
        raise AvrtError("not a checkpoint of a student", where=path, remedy="set --ckpt_path to one of avrt's modules")
    return record
