"""Gemma 4 behind the seam: the models that read pictures, video and sound, and write text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import Gemma4Config, Gemma4ForConditionalGeneration, Gemma4Processor

from avrt.data.inputs.batch import OmniBatch
from avrt.errors import AvrtError
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures, EncodedPrompts
from avrt.models.engine_prompts import EngineFacts
from avrt.models.family import EncodingCost, Family
from avrt.models.gemma4 import released_layout, stock, towers
from avrt.models.gemma4.decoder import GemmaDecoder
from avrt.models.gemma4.encoding_estimate import encoding_cost
from avrt.models.gemma4.media_inputs import GemmaInputs
from avrt.models.gemma4.nano import nano_config, nano_model, nano_processor
from avrt.models.gemma4.released_sizes import RELEASED_SIZES, released_config

RELEASED = "google/gemma-4-"
TUNED = "-it"


class Gemma(Family):
    """Gemma 4 E2B and E4B."""

    name: ClassVar[str] = "Gemma 4"
    model_types: ClassVar[tuple[str, ...]] = ("gemma4",)
    nano: ClassVar[str] = "nano-gemma4"
    lora_targets: ClassVar[str] = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
    projectors: ClassVar[str] = r".*embed_(vision|audio)\.embedding_projection"
    tower_attention: ClassVar[str | None] = None  # frames of one size are a batch; the audio tower has its own blocks
    engine: ClassVar[EngineFacts] = EngineFacts(released_layout.PREFIXES, positions="numbers", interleaves=False)
    typical_clip: ClassVar[tuple[int, int]] = (8 * 66, 250)  # frames of 16:9: 6 x 11 tokens, of 70 at most

    def make_nano(self, seed: int) -> tuple[nn.Module, Any]:
        """The nano preset and its processor."""
        return nano_model(seed)

    def load(self, source: str, dtype: torch.dtype, attention: str) -> tuple[nn.Module, Any, list[str]]:
        """Load the model; its audio tower computes attention in one way alone."""
        self.config(source)
        processor = Gemma4Processor.from_pretrained(source)
        ways = {"": attention, "text_config": attention, "vision_config": attention, "audio_config": "eager"}
        model, report = Gemma4ForConditionalGeneration.from_pretrained(
            source, dtype=dtype, attn_implementation=ways, output_loading_info=True
        )
        return model, processor, sorted(report["missing_keys"])

    def config(self, source: str) -> Gemma4Config:
        """The model's.

        Raises:
            AvrtError: If it is one of the models that are not covered.
        """
        if source == self.nano:
            return nano_config(nano_processor())
        config = Gemma4Config.from_pretrained(source)
        check_covered(config, source)
        return config

    def released_config(self, source: str) -> Gemma4Config | None:
        """That of `google/gemma-4-E2B`, `-E4B`, or one of these tuned for chat (`-it`)."""
        size = source.removeprefix(RELEASED).removesuffix(TUNED)
        return released_config(size) if source.startswith(RELEASED) and size in RELEASED_SIZES else None

    def empty_model(self, config: Any) -> nn.Module:
        """The model without weights."""
        with torch.device("meta"):
            model: nn.Module = Gemma4ForConditionalGeneration(config)
        model.tie_weights()  # type: ignore[operator]
        return model

    def processor(self, source: str) -> Gemma4Processor:
        """The processor beside the model."""
        return nano_processor() if source == self.nano else Gemma4Processor.from_pretrained(source)

    def encoding_cost(self, model: Any, vision_tokens: int, audio_tokens: int, element_size: int) -> EncodingCost:
        """Of both towers."""
        return encoding_cost(model, vision_tokens, audio_tokens, element_size)

    def scattered_encoding_cost(
        self, model: Any, vision_tokens: int, audio_tokens: int, element_size: int
    ) -> EncodingCost:
        """Of both towers, with all frames in one call."""
        return encoding_cost(model, vision_tokens, audio_tokens, element_size, in_one_call=True)

    def inputs(self, model: Any, processor: Any) -> GemmaInputs:
        """Patches, log-mel and blocks."""
        return GemmaInputs(processor)

    def decoder(self, model: Any) -> GemmaDecoder:
        """The text model with its vocabulary projection."""
        return GemmaDecoder(model.model.language_model, model.lm_head)

    def towers(self, model: Any) -> tuple[nn.Module, ...]:
        """Vision and audio tower, and the projections of what they make."""
        inner = model.model
        return inner.vision_tower, inner.audio_tower, inner.embed_vision, inner.embed_audio

    def context_length(self, model: Any) -> int:
        """Most positions of the text model."""
        return int(model.config.text_config.max_position_embeddings)

    def encode_clips(self, model: Any, batch: OmniBatch, *, run_on_empty: bool) -> ClipFeatures:
        """Run both towers once."""
        return towers.encode_clips(model, batch, run_on_empty=run_on_empty)

    def to_released_layout(self, folder: Path) -> None:
        """A saved model has it already, but for a field that vLLM reads."""
        released_layout.complete(folder)

    def released_parts(self, decoder: Decoder) -> Iterator[tuple[str, nn.Module]]:
        """The text model, and the vocabulary projection, which is its embeddings."""
        yield from released_layout.parts(decoder)

    def released_encoders(self, model: Any) -> Iterator[tuple[str, nn.Module]]:
        """Towers and projections."""
        for name in ("vision_tower", "audio_tower", "embed_vision", "embed_audio"):
            yield f"model.{name}.", getattr(model.model, name)

    def vllm_prompt(self, inputs: GemmaInputs, prompts: EncodedPrompts, row: int) -> dict[str, Any]:
        """The prompt with its blocks folded, and how vLLM's copy of the processor is to prepare the media."""
        return released_layout.vllm_prompt(inputs, prompts, row)

    def stock_positions(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
        """The tokens' numbers."""
        return stock.positions(batch, row)

    def stock_media(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
        """Pixels with the places of patches, log-mel with its mask."""
        return stock.media_arguments(model, batch, row)

    def stock_logprobs(self, model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
        """By the model's own forward pass."""
        return stock.logprobs(model, batch, row, completion)


def check_covered(config: Gemma4Config, source: str) -> None:
    """Refuse the larger models of the family.

    Raises:
        AvrtError: If its decoder or its towers are of a kind that is not covered.
    """
    text = config.text_config
    lacks = {
        "has no audio tower": config.audio_config is None,
        "has no vision tower": config.vision_config is None,
        "is a mixture of experts": text.enable_moe_block,
        "lets tokens of a picture see those behind them": text.use_bidirectional_attention is not None,
        "has no per-layer inputs": not text.hidden_size_per_layer_input,
    }
    if found := [what for what, is_so in lacks.items() if is_so]:
        remedy = f"use {RELEASED}E2B{TUNED} or {RELEASED}E4B{TUNED}"
        raise AvrtError(f"{found[0]}, which is not covered of Gemma 4", where=source, remedy=remedy)
