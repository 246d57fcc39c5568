"""Has vLLM 0.32 put those tokens in the place of a medium that the trainer hands in with each prompt.

vLLM counts and orders the tokens of media anew, family by family, and not always as transformers does: sound within
video whose steps lie far apart, steps that fall on a sound token but for rounding, frames that are not resized. Here
they come with each request instead, as one of its `mm_processor_kwargs`, so that they also tell cached media apart.

Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

KEY = "handed_tokens"
BASE, CONTEXT = "BaseMultiModalProcessor._get_mm_prompt_updates", "InputProcessingContext.get_merged_mm_kwargs"
"""What is replaced, by its name in vLLM 0.32."""


def with_tokens(processor: dict[str, Any], placeholders: dict[str, Any]) -> dict[str, Any]:
    """Options of vLLM's processor, with the tokens of a prompt's media among them.

    Args:
        processor: The other options.
        placeholders: For each medium its `tokens`, and of which of them `features` take the place.
    """
    arrays = {
        medium: [handed["features"], torch.tensor(handed["tokens"], dtype=torch.int32).numpy()]
        for medium, handed in placeholders.items()
    }
    return {**processor, KEY: arrays} if arrays else processor


def take_handed_tokens() -> list[str]:
    """In the process that prepares prompts, use the tokens that come with them.

    Returns:
        What this vLLM has not.
    """
    try:
        from vllm.multimodal.processing.context import InputProcessingContext
        from vllm.multimodal.processing.processor import BaseMultiModalProcessor, PromptUpdateDetails
    except ModuleNotFoundError as error:
        return [f"{BASE} ({error})"]
    own = getattr(BaseMultiModalProcessor, "_get_mm_prompt_updates", None)
    merged = getattr(InputProcessingContext, "get_merged_mm_kwargs", None)
    if own is None or merged is None:
        return [name for name, found in ((BASE, own), (CONTEXT, merged)) if found is None]

    def updates(self: Any, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any) -> Any:
        others = {key: value for key, value in hf_processor_mm_kwargs.items() if key != KEY}
        found = dict(own(self, mm_items, others, out_mm_kwargs))
        for medium, (features, tokens) in hf_processor_mm_kwargs.get(KEY, {}).items():
            content = PromptUpdateDetails.select_token_id(tokens.tolist(), features)
            found[medium] = [[update.with_content(content) for update in item] for item in found.get(medium, [])]
        return found

    def without_tokens(self: Any, kwargs: Mapping[str, Any], **more: Any) -> Any:
        return merged(self, {key: value for key, value in kwargs.items() if key != KEY}, **more)

    BaseMultiModalProcessor._get_mm_prompt_updates = updates
    InputProcessingContext.get_merged_mm_kwargs = without_tokens
    return []
