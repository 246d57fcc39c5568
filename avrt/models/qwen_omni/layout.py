"""A Qwen-Omni thinker's folder as the whole omni model is released: the thinker inside, without its talker."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.engine_prompts import folded
from avrt.models.qwen_omni.inputs import QwenInputs, is_interleaved

THINKER_PREFIX = "thinker."
PREFIXES = {
    f"{THINKER_PREFIX}model.": "language_model.model.",
    f"{THINKER_PREFIX}lm_head.": "language_model.lm_head.",
}
"""What the decoder's parameters' names begin with there, and in vLLM's models."""


def wrap_thinker(folder: Path, architecture: str, model_type: str) -> None:
    """Turn a thinker's folder into the layout of the whole omni model without its talker.

    Args:
        folder: What `save_pretrained` of the thinker has written.
        architecture: The class of the whole model.
        model_type: Of its configuration.
    """
    path = folder / "config.json"
    thinker = json.loads(path.read_text())
    # vLLM reads the flag from either place, and takes a missing one for true.
    thinker["tie_word_embeddings"] = thinker.get("tie_word_embeddings", False)
    thinker["text_config"]["tie_word_embeddings"] = thinker["tie_word_embeddings"]
    config = {
        "architectures": [architecture],
        "model_type": model_type,
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


def parts(decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's parts, and what their parameters' names begin with in the released checkpoints."""
    yield f"{THINKER_PREFIX}model.", decoder.language_model
    yield f"{THINKER_PREFIX}lm_head.", decoder.lm_head


def encoders(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The towers with their projectors, likewise."""
    yield f"{THINKER_PREFIX}visual.", model.model.visual
    yield f"{THINKER_PREFIX}audio_tower.", model.model.audio_tower


def vllm_prompt(inputs: QwenInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
    """One prompt as vLLM is asked it: a single placeholder for each medium, and how the processor is to prepare it."""
    clip, ids = prompts.clips[row], inputs.ids
    tokens = prompts.token_ids[row].tolist()
    interleaved = is_interleaved(tokens, ids)
    sound = {} if interleaved else {"audio": [ids.audio]}
    within = [ids.audio, ids.audio_bos, ids.audio_eos] if interleaved else []
    processor: dict[str, Any] = {"use_audio_in_video": interleaved}
    fps = 1.0 / clip.seconds_per_frame if clip.seconds_per_frame else 1.0
    if clip.frames is not None:
        # Where it interleaves sound, vLLM looks for the second of these instead of the first.
        processor |= {"fps": fps, "second_per_grid_ts": [inputs.temporal / fps]}
    for pictures in (clip.frames, clip.image):
        if pictures is not None:  # they have the model's size already
            processor |= {"min_pixels": 1, "max_pixels": pictures.shape[-1] * pictures.shape[-2]}
    media = {"video": [ids.video, *within], "image": [ids.image], **sound}
    return {**folded(tokens, media), "fps": fps, "processor": processor}
