"""How Gemma 4 is released: simply the model's own folder. What vLLM is asked, and under which names it has weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.gemma4.media_inputs import ClipLayout, GemmaInputs, frame_times


def parts(decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
    """The decoder's parts, and what their parameters' names begin with in the released checkpoints.

    The vocabulary projection is the embeddings' weight, which is there once.
    """
    yield "model.language_model.", decoder.language_model
    if decoder.lm_head.weight is not decoder.language_model.embed_tokens.weight:
        yield "lm_head.", decoder.lm_head


def vllm_prompt(inputs: GemmaInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
    """One prompt as vLLM is asked it: a single placeholder for each medium, and when each frame is shown.

    Of a frame's time its processor writes whole seconds: at one frame a second those are the frames' numbers.
    """
    ids, times = prompts.token_ids[row].tolist(), frame_times(prompts.clips[row])
    (video, image), (sound,) = inputs.placeholders
    layout = ClipLayout(times, ids.count(video) // max(1, len(times)), ids.count(image), ids.count(sound))
    text = str(inputs.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    names = inputs.processor
    for placeholder, found in ((names.video_token, video), (names.image_token, image), (names.audio_token, sound)):
        if found in ids:
            text = text.replace(inputs.write_blocks(placeholder, layout), placeholder)
    short = inputs.tokenizer.encode(text, add_special_tokens=False)
    return {"token_ids": short, "fps": 1.0, "frame_numbers": [int(seconds) for seconds in times], "processor": {}}
