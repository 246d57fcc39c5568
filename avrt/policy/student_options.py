"""Which student is trained, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from avrt.errors import AvrtError
from avrt.models.feature_cache import FeatureCacheOptions


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters (needs the extra `lora`).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update counts alpha / rank.
        dropout: Dropout on the adapter's input.
        modules: Whose linear layers have them, of `decoder`, `projector` (between
            towers and decoder) and `towers`. With the last two clips are encoded
            anew for each forward pass, and the feature cache cannot be used.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    modules: tuple[Literal["decoder", "projector", "towers"], ...] = ("decoder",)

    @property
    def on_encoders(self) -> bool:
        """Whether what the decoder is given of a clip changes with training."""
        return any(module != "decoder" for module in self.modules)


@dataclass(frozen=True)
class StudentOptions:
    """Which student, and how it is loaded.

    Attributes:
        source: A folder, a model id, `nano` for the untrained preset that needs no download, or `nano/student` for a
            trained one of its size.
        dtype: Type of the weights.
        gradient_checkpointing: Recompute each layer in the backward pass instead of keeping its activations.
        attention: `sdpa`; `flex`, which scores packed groups with FlexAttention (to be trained on a GPU only); or one
            of transformers' own, e.g. `flash_attention_2`, which can neither pack groups nor share a prefix.
        fused_layers: Compute norm, SwiGLU and rotary embedding of the decoder in one kernel each, by Liger-Kernel (the
            extra `fused`), on a GPU; the numbers agree to rounding. `auto` is where a GPU and the package are there.
        feature_cache: Keep the frozen towers' output on disk, so that each clip is encoded once for all epochs and
            runs; worth it where clips come again.
        lora: Train adapters instead of the decoder's own weights.
        quantize: Hold the weights beneath the adapters in 4 bits (`nf4`, QLoRA; needs `lora` and the extra `qlora`):
            0.56 bytes each instead of 2. Towers, embeddings, norms and vocabulary projection stay as they are; so do
            experts, which are most of Qwen3-Omni: 0.9 of its 31.7 billion weights get 4 bits. Not under ZeRO-3.
        seed: Seed of the nano preset's weights.
    """

    source: str = "Qwen/Qwen2.5-Omni-3B"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    attention: str = "sdpa"
    fused_layers: bool | Literal["auto"] = "auto"
    feature_cache: FeatureCacheOptions | None = None
    lora: LoraOptions | None = None
    quantize: Literal["nf4"] | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse options that contradict each other; not at once, as a command line sets them one after the other.

        Raises:
            AvrtError: If 4-bit weights would have to be trained themselves, adapters are nowhere, or features that
                change would be kept.
        """
        if self.quantize is not None and self.lora is None:
            raise AvrtError(
                "4-bit weights cannot be trained themselves",
                where="model.student.quantize",
                remedy="set model.student.lora.rank 16, or leave it out",
            )
        if self.lora is None:
            return
        where = "model.student.lora.modules"
        if not self.lora.modules:
            raise AvrtError("names nothing that has adapters", where=where, remedy="leave it out for [decoder]")
        if self.quantize is not None and "decoder" not in self.lora.modules:
            raise AvrtError(
                "4-bit weights need adapters on them", where=where, remedy="add decoder, or leave quantize out"
            )
        if self.feature_cache is not None and self.lora.on_encoders:
            raise AvrtError(
                f"features change with the adapters on {' and '.join(m for m in self.lora.modules if m != 'decoder')}",
                where="model.student.feature_cache",
                remedy="leave it out, or set model.student.lora.modules: [decoder]",
            )
