"""Qwen3-Omni behind the seam: the thinker, which reads clips and writes text; the talker is never loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import Qwen3OmniMoeProcessor, Qwen3OmniMoeThinkerConfig, Qwen3OmniMoeThinkerForConditionalGeneration
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeThinkerTextSparseMoeBlock

from avrt.data.inputs.batch import OmniBatch
from avrt.models.decoder import Decoder
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.engine_prompts import EngineFacts
from avrt.models.family import EncodingCost
from avrt.models.qwen3_omni import released_layout, stock, towers
from avrt.models.qwen3_omni.decoder import Qwen3Decoder
from avrt.models.qwen3_omni.encoding_estimate import encoding_cost
from avrt.models.qwen3_omni.media_inputs import Qwen3OmniInputs
from avrt.models.qwen3_omni.nano import nano_config, nano_processor, nano_thinker
from avrt.models.qwen3_omni.positions import SpecialTokens
from avrt.models.qwen3_omni.released_sizes import RELEASED_SIZES, released_config
from avrt.models.qwen_omni import layout
from avrt.models.qwen_omni.family import QwenThinker
from avrt.models.transformers_internals import add_features_at_places

RELEASED = "Qwen/Qwen3-Omni-"
EXPERTS = "grouped_mm"
"""transformers' function for experts: one product for all of them, by which no device is waited for; its gradients are
those of the loop over experts, on a CPU too. (`batched_mm` copies each token's experts.)"""


class Qwen3Omni(QwenThinker):
    """Qwen3-Omni."""

    model_class: ClassVar[Any] = Qwen3OmniMoeThinkerForConditionalGeneration
    config_class: ClassVar[Any] = Qwen3OmniMoeThinkerConfig
    processor_class: ClassVar[Any] = Qwen3OmniMoeProcessor
    loading: ClassVar[dict[str, Any]] = {"experts_implementation": EXPERTS}
    name: ClassVar[str] = "Qwen3-Omni"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_omni_moe", "qwen3_omni_moe_thinker")
    nano: ClassVar[str] = "nano-qwen3-omni"
    # Experts are no linear layers but single tensors of all experts, so adapters are on attention alone.
    lora_targets: ClassVar[str] = r".*language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
    projectors: ClassVar[str] = r".*(visual\.merger(_list\.\d+)?\.mlp\.\d+|audio_tower\.proj[12])"
    engine: ClassVar[EngineFacts] = EngineFacts(layout.PREFIXES, positions="fractional")
    typical_clip: ClassVar[tuple[int, int]] = (1200, 130)  # 13 tokens a second of sound

    def nano_processor(self) -> Qwen3OmniMoeProcessor:
        """Made without downloads."""
        return nano_processor()

    def nano_config(self) -> Qwen3OmniMoeThinkerConfig:
        """With the token ids of that processor."""
        return nano_config(nano_processor())

    def make_nano(self, seed: int) -> tuple[nn.Module, Any]:
        """The thinker of the nano preset, and its processor."""
        return nano_thinker(seed)

    def released_config(self, source: str) -> Qwen3OmniMoeThinkerConfig | None:
        """That of `Qwen/Qwen3-Omni-30B-A3B-Instruct` and its sisters."""
        known = source.startswith(RELEASED) and source.removeprefix(RELEASED) in RELEASED_SIZES
        return released_config() if known else None

    def encoding_cost(self, model: Any, vision_tokens: int, audio_tokens: int, element_size: int) -> EncodingCost:
        """Of both towers."""
        return encoding_cost(model, vision_tokens, audio_tokens, element_size)

    def inputs(self, model: Any, processor: Any) -> Qwen3OmniInputs:
        """Patches, log-mel and TMRoPE positions."""
        return Qwen3OmniInputs(processor, SpecialTokens.of(model.config))

    def decoder(self, model: Any) -> Decoder:
        """The text model with its vocabulary projection."""
        add_features_at_places(model.model.language_model)
        return Qwen3Decoder(model.model.language_model, model.lm_head)

    def fused_layers(self, model: Any) -> Mapping[type, type]:
        """Norms and rotary embedding of the text model."""
        # Late: the module's classes are made from transformers' own, whose import takes a second.
        from avrt.models.qwen3_omni.fused import FUSED

        return FUSED

    def leaf_modules(self, model: Any) -> tuple[type[nn.Module], ...]:
        """The layers of experts with their routers."""
        return (Qwen3OmniMoeThinkerTextSparseMoeBlock,)

    def encode_clips(self, model: Any, batch: OmniBatch, *, run_on_empty: bool) -> ClipFeatures:
        """Run both towers once."""
        return towers.encode_clips(model, batch, run_on_empty=run_on_empty)

    def to_released_layout(self, folder: Path) -> None:
        """Put the thinker inside an omni model without its talker."""
        released_layout.wrap_thinker(folder)

    def released_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each expert by itself."""
        yield from released_layout.tensors(name, tensor)

    def stock_positions(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> Tensor:
        """By `get_rope_index`."""
        return stock.positions(model, processor, batch, row)

    def stock_media(self, model: Any, processor: Any, batch: OmniBatch, row: int) -> dict[str, Any]:
        """Pixels, log-mel, sizes and the clip's rate."""
        return stock.media_of(model, processor, batch, row)

    def stock_logprobs(self, model: Any, processor: Any, batch: OmniBatch, row: int, completion: Tensor) -> Tensor:
        """By the thinker's own forward pass."""
        return stock.logprobs(model, processor, batch, row, completion)
