"""What the Qwen-Omni families have in common behind the seam: a thinker, whose talker is never loaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.family import Family
from avrt.models.qwen_omni import layout


class QwenThinker(Family):
    """A Qwen-Omni thinker.

    Attributes:
        model_class: transformers' class of the thinker.
        config_class: Of its configuration.
        processor_class: Of its processor.
        loading: With what else weights are loaded.
    """

    model_class: ClassVar[Any]
    config_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    loading: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def nano_processor(self) -> Any:
        """The nano preset's processor."""

    @abstractmethod
    def nano_config(self) -> Any:
        """The nano preset's configuration."""

    def load(self, source: str, dtype: torch.dtype, attention: str) -> tuple[nn.Module, Any, list[str]]:
        """Load the thinker, from its own folder or from a whole omni model's."""
        processor = self.processor_class.from_pretrained(source)
        thinker, report = self.model_class.from_pretrained(
            source, dtype=dtype, attn_implementation=attention, output_loading_info=True, **self.loading
        )
        return thinker, processor, sorted(report["missing_keys"])

    def config(self, source: str) -> Any:
        """The thinker's, from its own folder or from a whole omni model's."""
        return self.nano_config() if source == self.nano else self.config_class.from_pretrained(source)

    def empty_model(self, config: Any) -> nn.Module:
        """The thinker without weights."""
        with torch.device("meta"):
            thinker: nn.Module = self.model_class(config)
        return thinker

    def processor(self, source: str) -> Any:
        """The processor beside the model."""
        return self.nano_processor() if source == self.nano else self.processor_class.from_pretrained(source)

    def towers(self, model: Any) -> tuple[nn.Module, ...]:
        """Vision and audio tower."""
        return model.model.visual, model.model.audio_tower

    def context_length(self, model: Any) -> int:
        """Most positions of the text model."""
        return int(model.config.text_config.max_position_embeddings)

    def released_parts(self, decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
        """Text model and vocabulary projection, by their names inside the omni model."""
        yield from layout.parts(decoder)

    def released_encoders(self, model: Any) -> Iterator[tuple[str, nn.Module]]:
        """Vision and audio tower, each with its projectors inside, by their names inside the omni model."""
        yield from layout.encoders(model)

    def vllm_prompt(self, inputs: Any, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
        """The prompt with its placeholders folded, and how vLLM's copy of the processor is to prepare the media."""
        return layout.vllm_prompt(inputs, prompts, row)
