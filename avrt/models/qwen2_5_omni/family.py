"""Qwen2.5-Omni behind the seam: the thinker, which reads clips and writes text; the talker is never loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from avrt.data.inputs.batch import OmniBatch
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.engine_prompts import EngineFacts
from avrt.models.family import EncodingCost
from avrt.models.qwen2_5_omni import stock, towers
from avrt.models.qwen2_5_omni.encoding_estimate import encoding_cost
from avrt.models.qwen2_5_omni.media_inputs import QwenOmniInputs
from avrt.models.qwen2_5_omni.nano import nano_config, nano_processor, nano_thinker
from avrt.models.qwen2_5_omni.positions import SpecialTokens
from avrt.models.qwen2_5_omni.released_sizes import RELEASED_SIZES, released_config
from avrt.models.qwen_omni import layout
from avrt.models.qwen_omni.family import QwenThinker

RELEASED = "Qwen/Qwen2.5-Omni-"


class QwenOmni(QwenThinker):
    """Qwen2.5-Omni."""

    model_class: ClassVar[Any] = Qwen2_5OmniThinkerForConditionalGeneration
    config_class: ClassVar[Any] = Qwen2_5OmniThinkerConfig
    processor_class: ClassVar[Any] = Qwen2_5OmniProcessor
    name: ClassVar[str] = "Qwen2.5-Omni"
    model_types: ClassVar[tuple[str, ...]] = ("qwen2_5_omni", "qwen2_5_omni_thinker")
    nano: ClassVar[str] = "nano"
    lora_targets: ClassVar[str] = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    projectors: ClassVar[str] = r".*(visual\.merger\.mlp\.\d+|audio_tower\.proj)"
    engine: ClassVar[EngineFacts] = EngineFacts(layout.PREFIXES)

    def nano_processor(self) -> Qwen2_5OmniProcessor:
        """Made without downloads."""
        return nano_processor()

    def nano_config(self) -> Qwen2_5OmniThinkerConfig:
        """With the token ids of that processor."""
        return nano_config(nano_processor())

    def make_nano(self, seed: int) -> tuple[nn.Module, Any]:
        """The thinker of the nano preset, and its processor."""
        return nano_thinker(seed)

    def released_config(self, source: str) -> Qwen2_5OmniThinkerConfig | None:
        """That of `Qwen/Qwen2.5-Omni-3B` or `-7B`."""
        size = source.removeprefix(RELEASED)
        return released_config(size) if source.startswith(RELEASED) and size in RELEASED_SIZES else None

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

    def encode_clips(self, model: Any, batch: OmniBatch, *, run_on_empty: bool) -> ClipFeatures:
        """Run both towers once."""
        return towers.encode_clips(model, batch, run_on_empty=run_on_empty)

    def to_released_layout(self, folder: Path) -> None:
        """Put the thinker inside an omni model without its talker."""
        layout.wrap_thinker(folder, "Qwen2_5OmniModel", Qwen2_5OmniConfig.model_type)

    def stock_positions(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
        """By `get_rope_index`."""
        return stock.positions(model, processor, batch, row)

    def stock_media(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
        """Pixels, log-mel, sizes and the clip's rate."""
        return stock.media_arguments(model, processor, batch, row)

    def stock_logprobs(self, model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
        """By the thinker's own forward pass."""
        return stock.logprobs(model, processor, batch, row, completion)
