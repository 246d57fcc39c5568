"""Export: a student as a folder that other software loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniConfig

from avrt.errors import AvrtError
from avrt.policy.policy import LoraOptions, Policy, StudentOptions, load_policy

THINKER_PREFIX = "thinker."


def export_policy(
    student: Policy, folder: Path, *, full_layout: bool = False, dtype: torch.dtype | None = None
) -> None:
    """Write weights (safetensors), configuration and processor.

    Args:
        student: What to write; adapters are merged, after which it cannot be trained further.
        folder: Where to; created if missing.
        full_layout: Write the layout of the released checkpoints, with the thinker inside the omni model, which vLLM
            expects, instead of the thinker alone.
        dtype: Round the weights to this type; None keeps them as they are.

    Raises:
        AvrtError: If the folder already holds a model.
    """
    if (folder / "config.json").exists():
        raise AvrtError("already holds a model", where=folder, remedy="choose another --out or delete it")
    thinker = student.merged()
    if dtype is not None:
        thinker = thinker.to(dtype)
    thinker.save_pretrained(folder)
    student.processor.save_pretrained(folder)
    if full_layout:
        _wrap_thinker(folder)


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
    if not (path / "latest").is_file():
        raise AvrtError(
            "not a complete DeepSpeed checkpoint", where=path, remedy="set --ckpt_path to a step-*.ckpt folder"
        )
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    options = checkpoint_options(path)
    if source is not None:
        options["source"] = source
    student = load_policy(StudentOptions(**options))
    trained = get_fp32_state_dict_from_zero_checkpoint(str(path), tag="checkpoint", exclude_frozen_parameters=True)
    prefix = "student."
    weights = {name.removeprefix(prefix): tensor for name, tensor in trained.items() if name.startswith(prefix)}
    # With tied embeddings one tensor goes by two names, and DeepSpeed writes both.
    parameters = dict(student.named_parameters(remove_duplicate=False))
    expected = {name for name, parameter in parameters.items() if parameter.requires_grad}
    if expected != set(weights):
        raise AvrtError(
            f"does not fit {student.options.source}: {len(expected ^ set(weights))} parameters differ", where=path
        )
    with torch.no_grad():
        for name, tensor in weights.items():
            parameters[name].copy_(tensor)
    return student


def checkpoint_options(path: Path) -> dict[str, Any]:
    """The options of the student that a checkpoint was made with."""
    states = sorted((path / "checkpoint").glob("*model_states.pt"))
    if not states:
        raise AvrtError("has no model states", where=path)
    record = torch.load(states[0], map_location="cpu", weights_only=False, mmap=True)
    options = dict(record["student"])
    options["gradient_checkpointing"] = False
    if options["lora"] is not None:
        options["lora"] = LoraOptions(**options["lora"])
    return options


def _wrap_thinker(folder: Path) -> None:
    """Turn a thinker's folder into the layout of the whole omni model without its talker."""
    path = folder / "config.json"
    thinker = json.loads(path.read_text())
    # vLLM reads the flag from either place, and takes a missing one for true.
    thinker["tie_word_embeddings"] = thinker.get("tie_word_embeddings", False)
    thinker["text_config"]["tie_word_embeddings"] = thinker["tie_word_embeddings"]
    config = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": Qwen2_5OmniConfig.model_type,
        "enable_audio_output": False,
        "enable_talker": False,
        "tie_word_embeddings": thinker["tie_word_embeddings"],
        "dtype": thinker.get("dtype", "float32"),
        "thinker_config": thinker,
    }
    path.write_text(json.dumps(config, indent=2))
    for file in sorted(folder.glob("*.safetensors")):
        renamed = {THINKER_PREFIX + name: tensor for name, tensor in load_file(file).items()}
        partial = file.with_suffix(".partial")
        save_file(renamed, partial, metadata={"format": "pt"})
        shutil.move(partial, file)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        record = json.loads(index.read_text())
        record["weight_map"] = {THINKER_PREFIX + name: file for name, file in record["weight_map"].items()}
        index.write_text(json.dumps(record, indent=2))
