"""A Qwen-Omni thinker's folder as the whole omni model is released: the thinker inside, without its talker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

THINKER_PREFIX = "thinker."


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
