"""How Gemma 4 is released: simply the model's own folder. What vLLM is asked, and under which names it has weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from avrt.data.media.student_frames import GEMMA_FRAME_TOKENS, GEMMA_STILL_TOKENS
from avrt.errors import AvrtError
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.engine_prompts import folded
from avrt.models.gemma4.media_inputs import GemmaInputs

PREFIXES = {"model.language_model.": "language_model.model.", "lm_head.": "language_model.lm_head."}
"""What the decoder's parameters' names begin with in the released checkpoints, and in vLLM's model."""


def parts(decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's parts, and what their parameters' names begin with in the released checkpoints.

    The vocabulary projection is the embeddings' weight, which comes under both names: of a projection vLLM may keep a
    copy in a form of its own, which follows only if it is given one.
    """
    yield "model.language_model.", decoder.language_model
    yield "lm_head.", decoder.lm_head


def complete(folder: Path) -> None:
    """Write into a model's configuration what vLLM reads beside what transformers has written."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"].setdefault("default_output_length", GEMMA_STILL_TOKENS)
    path.write_text(json.dumps(config, indent=2))


def vllm_prompt(inputs: GemmaInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
    """One prompt as vLLM is asked it: a single placeholder for each medium, and how the processor is to prepare it.

    Of a video all from the first frame's tokens to the last one's is folded, the times between frames among it.

    Raises:
        AvrtError: If a frame or a picture has more tokens than vLLM has room for.
    """
    clip, tokens = prompts.clips[row], prompts.token_ids[row].tolist()
    (video, image), (sound,) = inputs.placeholders
    frames = 0 if clip.frames is None else len(clip.frames)
    for what, count, most in (
        ("frames", tokens.count(video) // max(1, frames), GEMMA_FRAME_TOKENS),
        ("a picture", tokens.count(image), GEMMA_STILL_TOKENS),
    ):
        if count > most:
            raise AvrtError(
                f"has {what} of {count} tokens, and vLLM has room for {most} of Gemma 4",
                where=f"sample {prompts.sample_ids[row]!r}",
                remedy="make the shards with --student gemma4, or sample without vllm",
            )
    media = {"video": [video], "image": [image], "audio": [sound]}
    processor: dict[str, Any] = {}
    if clip.pictures is not None:
        processor["do_resize"] = False  # they have the model's size already
    if clip.audio is not None:
        processor["truncation"] = True  # at 30 s, as in training; vLLM would not
    return {**folded(tokens, media), "fps": 1.0, "processor": processor}
