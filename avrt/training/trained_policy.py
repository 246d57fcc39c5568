"""A policy from a training checkpoint: its source's weights with the trained ones put over them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from avrt.errors import AvrtError
from avrt.policy.policy import Policy, load_policy
from avrt.policy.student_options import LoraOptions, StudentOptions
from avrt.training import deepspeed_internals

PREFIX = "policy.model."
"""What the names of a student's parameters begin with in a checkpoint."""


def policy_from_checkpoint(path: Path, source: str | None = None) -> Policy:
    """Rebuild a student from a training checkpoint: its source's weights with the trained ones put over them.

    Works for every ZeRO stage and whatever number of processes wrote the checkpoint, and for the single file that other
    strategies write. DeepSpeed's is read by unpickling: open only checkpoints whose origin you trust.

    Args:
        path: A checkpoint folder of DeepSpeed, or the file of another strategy.
        source: Where the student was loaded from, if it has moved since.

    Raises:
        AvrtError: If it is no such checkpoint, or does not fit the source.
    """
    options = checkpoint_options(path)
    if source is not None:
        options["source"] = source
    policy = load_policy(StudentOptions(**options))
    put_trained(policy, path)
    return policy


def put_trained(policy: Policy, path: Path) -> None:
    """Put a checkpoint's trained parameters over those of a student; DeepSpeed is imported only if it wrote them.

    Args:
        policy: The student, loaded from its source.
        path: As for `policy_from_checkpoint`.

    Raises:
        AvrtError: If it is no such checkpoint, or of another student.
    """
    record = checkpoint_record(path)
    saved = record["state_dict"] if path.is_file() else deepspeed_internals.trained_weights(path)
    # With tied embeddings one tensor goes by two names, and both are written.
    parameters = dict(policy.model.named_parameters(remove_duplicate=False))
    expected = {name for name, parameter in parameters.items() if parameter.requires_grad}
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in saved.items() if name.startswith(PREFIX)}
    # Buffers are there too, and what is frozen where a strategy writes it, or under the second name of a tied weight.
    trained = set(record["trained"])
    weights = {name: tensor for name, tensor in weights.items() if name in expected or f"model.{name}" in trained}
    if differing := expected ^ set(weights):
        raise AvrtError(
            f"does not fit {policy.options.source}: {len(differing)} trained parameters differ, e.g. {min(differing)}",
            where=path,
            remedy="set model.student as in the run that made it",
        )
    for name, tensor in weights.items():
        if parameters[name].shape != tensor.shape:
            raise AvrtError(
                f"does not fit {policy.options.source}: {name} is {tuple(tensor.shape)} there and "
                f"{tuple(parameters[name].shape)} here",
                where=path,
                remedy="set model.student as in the run that made it",
            )
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)


def checkpoint_options(path: Path) -> dict[str, Any]:
    """The options of the student that a checkpoint was made with."""
    options = dict(checkpoint_record(path)["student"])
    # How it was trained, not what: it may be read on another machine.
    options |= {"gradient_checkpointing": False, "fused_layers": "auto"}
    if options["lora"] is not None:
        options["lora"] = LoraOptions(**options["lora"])
    return options


def checkpoint_record(path: Path) -> dict[str, Any]:
    """What a checkpoint holds beside DeepSpeed's own part; the file of another strategy holds the weights too.

    Raises:
        AvrtError: If it is no complete checkpoint of a student.
    """
    if path.is_file():
        try:
            record = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else repr(error)
            raise AvrtError(f"not a checkpoint of Lightning: {first}", where=path) from None
    elif deepspeed_internals.is_complete(path):
        record = deepspeed_internals.saved_record(path)
    else:
        record = None
    if not isinstance(record, dict) or "student" not in record or "trained" not in record:
        raise AvrtError(
            "not a complete checkpoint of a training run", where=path, remedy="set --ckpt_path to a step-*.ckpt"
        )
    return record
