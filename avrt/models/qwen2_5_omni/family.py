"""Qwen2.5-Omni behind the seam: the thinker, which reads clips and writes text; the talker is never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from avrt.data.inputs.batch import OmniBatch
from avrt.models import qwen_layout
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.engine_prompts import EngineFacts
from avrt.models.family import EncodingCost, Family
from avrt.models.qwen2_5_omni import released_layout, stock, towers
from avrt.models.qwen2_5_omni.encoding_estimate import encoding_cost
from avrt.models.qwen2_5_omni.media_inputs import QwenOmniInputs
from avrt.models.qwen2_5_omni.nano import nano_config, nano_processor, nano_thinker
from avrt.models.qwen2_5_omni.positions import SpecialTokens
from avrt.models.qwen2_5_omni.released_sizes import RELEASED_SIZES, released_config

RELEASED = "Qwen/Qwen2.5-Omni-"


class QwenOmni(Family):
    """Qwen2.5-Omni."""

    name: ClassVar[str] = "Qwen2.5-Omni"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    nano: ClassVar[str] = "nano"
    lora_targets: ClassVar[str] = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    projectors: ClassVar[str] = r".*(visual\.merger\.mlp\.\d+|audio_tower\.proj)"
    engine: ClassVar[EngineFacts] = EngineFacts(qwen_layout.PREFIXES)

    def make_nano(self, seed: int) -> tuple[nn.Module, Any]:
        """The thinker of the nano preset, and its processor."""
        return nano_thinker(seed)

    def load(self, source: str, dtype: torch.dtype, attention: str) -> tuple[nn.Module, Any, list[str]]:
        """Load the thinker, from its own folder or from a whole omni model's."""
        processor = Qwen2_5OmniProcessor.from_pretrained(source)
        thinker, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            source, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
        return thinker, processor, sorted(report["missing_keys"])

    def config(self, source: str) -> Qwen2_5OmniThinkerConfig:
        """The thinker's, from its own folder or from a whole omni model's."""
        if source == self.nano:
            return nano_config(nano_processor())
        return Qwen2_5OmniThinkerConfig.from_pretrained(source)

    def released_config(self, source: str) -> Qwen2_5OmniThinkerConfig | None:
        """That of `Qwen/Qwen2.5-Omni-3B` or `-7B`."""
        size = source.removeprefix(RELEASED)
        return released_config(size) if source.startswith(RELEASED) and size in RELEASED_SIZES else None

    def empty_model(self, config: Any) -> nn.Module:
        """The thinker without weights."""
        with torch.device("meta"):
            thinker: nn.Module = Qwen2_5OmniThinkerForConditionalGeneration(config)
        return thinker

    def processor(self, source: str) -> Qwen2_5OmniProcessor:
        """The processor beside the model."""
        return nano_processor() if source == self.nano else Qwen2_5OmniProcessor.from_pretrained(source)

    def encoding_cost(self, model: Any, vision_tokens: int, audio_tokens: int, element_size: int) -> EncodingCost:
        """Of both towers."""
        return encoding_cost(model, vision_tokens, audio_tokens, element_size)

    def inputs(self, model: Any, processor: Any) -> QwenOmniInputs:
        """Patches, log-mel and TMRoPE positions."""
        return QwenOmniInputs(processor, SpecialTokens.of(model.config))

    def decoder(self, model: Any) -> Decoder:
        """The text model with its vocabulary projection."""
        return Decoder(model.model.language_model, model.lm_head)

    def fused_layers(self, model: Any) -> Mapping[type, type]:
        """Norm, SwiGLU and rotary embedding of the text model."""
        # Late: the module's classes are made from transformers' own, whose import takes a second.
        from avrt.models.qwen2_5_omni.fused import fused_classes

        return fused_classes(model.config.text_config)

    def towers(self, model: Any) -> tuple[nn.Module, ...]:
        """Vision and audio tower."""
        return model.model.visual, model.model.audio_tower

    def context_length(self, model: Any) -> int:
        """Most positions of the text model."""
        return int(model.config.text_config.max_position_embeddings)

    def encode_clips(self, model: Any, batch: OmniBatch, *, run_on_empty: bool) -> ClipFeatures:
        """Run both towers once."""
        return towers.encode_clips(model, batch, run_on_empty=run_on_empty)

    def to_released_layout(self, folder: Path) -> None:
        """Put the thinker inside an omni model without its talker."""
        released_layout.wrap_thinker(folder)

    def released_parts(self, decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
        """Text model and vocabulary projection, by their names inside the omni model."""
        yield from qwen_layout.parts(decoder)

    def released_encoders(self, model: Any) -> Iterator[tuple[str, nn.Module]]:
        """Vision and audio tower, each with its projector inside, by their names inside the omni model."""
        yield from qwen_layout.encoders(model)

    def vllm_prompt(self, inputs: QwenOmniInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
        """The prompt with its placeholders folded, and how vLLM's copy of the processor is to prepare the media."""
        return qwen_layout.vllm_prompt(inputs, prompts, row)

    def stock_positions(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
        """By `get_rope_index`."""
        return stock.positions(model, processor, batch, row)

    def stock_media(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
        """Pixels, log-mel, sizes and the clip's rate."""
        return stock.media_arguments(model, processor, batch, row)

    def stock_logprobs(self, model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
        """By the thinker's own forward pass."""
        return stock.logprobs(model, processor, batch, row, completion)
