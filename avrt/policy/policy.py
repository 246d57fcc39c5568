"""The omni student: loading, frozen towers, adapters, and the text model whose form policy and reference share."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import Qwen2_5OmniProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from avrt.data.inputs.preprocessor import OmniBatch
from avrt.errors import AvrtError
from avrt.models.attention import OURS, Layout
from avrt.models.feature_cache import FeatureCache, FeatureCacheOptions, weights_hash
from avrt.models.qwen2_5_omni.nano import nano_thinker
from avrt.models.qwen2_5_omni.positions import TokenIds
from avrt.models.qwen2_5_omni.towers import ClipFeatures, embed_tokens, encode_clips

NANO = "nano"
_LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


@dataclass(frozen=True)
class LoraOptions:
    """Low-rank adapters on the text model (needs the extra `lora`).

    Attributes:
        rank: Rank of the update.
        alpha: Scale; the update counts alpha / rank.
        dropout: Dropout on the adapter's input.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0


@dataclass(frozen=True)
class StudentOptions:
    """Which student, and how it is loaded.

    Attributes:
        source: A folder, a model id, or `nano` for the preset that needs no download.
        dtype: Type of the weights.
        gradient_checkpointing: Recompute each layer in the backward pass instead of keeping its activations.
        attention: `sdpa`; `flex`, which scores packed groups with FlexAttention (to be trained on a GPU only); or one
            of transformers' own, e.g. `flash_attention_2`, which can neither pack groups nor share prompts.
        feature_cache: Keep the frozen towers' output on disk, so that each clip is encoded once whatever the number of
            epochs and runs; worth it where clips come again.
        lora: Train adapters instead of the text model's own weights.
        seed: Seed of the nano preset's weights.
    """

    source: str = "Qwen/Qwen2.5-Omni-3B"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    gradient_checkpointing: bool = False
    attention: str = "sdpa"
    feature_cache: FeatureCacheOptions | None = None
    lora: LoraOptions | None = None
    seed: int = 0


@dataclass(frozen=True)
class Decoder:
    """The trained half of a student: embeddings, decoder layers and vocabulary projection, as a policy.

    Attributes:
        language_model: The decoder (`Qwen2_5OmniThinkerTextModel`).
        lm_head: Projection (H -> V).
        ids: The model's special tokens.
    """

    language_model: Any
    lm_head: nn.Module
    ids: TokenIds

    @property
    def supports_packing(self) -> bool:
        """Whether its attention can be given packed groups and shared prompts."""
        return self.language_model.config._attn_implementation in OURS.values()

    def embed(self, token_ids: Tensor, in_prompt: Tensor, features: ClipFeatures) -> Tensor:
        """Embeddings (B, T, H) of token ids (B, T), clip features at the prompt's placeholders; see `embed_tokens`."""
        return embed_tokens(self.language_model.embed_tokens, token_ids, in_prompt, features, self.ids)

    def embed_completion(self, token_ids: Tensor) -> Tensor:
        """Embeddings (B, T, H) of answer tokens (B, T)."""
        return self.language_model.embed_tokens(token_ids)

    def hidden(self, embeddings: Tensor, positions: Tensor, mask: Tensor | Layout | None, cache: Any = None) -> Tensor:
        """Final hidden states.

        Args:
            embeddings: (B, T, H).
            positions: (3, B, T) TMRoPE positions.
            mask: (B, C + T) with 1 at real tokens, C being what the cache holds; None if all are; or the layout of
                packed groups or shared prompts.
            cache: A key-value cache to read and extend.

        Returns:
            (B, T, H).
        """
        output = self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            # transformers hands a ready mask, here the layout, through to every layer's attention function
            attention_mask=mask if mask is None or isinstance(mask, Tensor) else {"full_attention": mask},
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state


class Policy(nn.Module):
    """An omni model with frozen towers and a trainable text model.

    Args:
        thinker: The model.
        processor: Its processor.
        options: How it was loaded.
    """

    def __init__(
        self,
        thinker: Qwen2_5OmniThinkerForConditionalGeneration,
        processor: Qwen2_5OmniProcessor,
        options: StudentOptions,
    ) -> None:
        super().__init__()
        self.options = options
        self.processor = processor
        self.ids = token_ids(thinker.config)
        text_config = thinker.config.text_config
        if options.attention in OURS:
            text_config._attn_implementation = OURS[options.attention]
        thinker.requires_grad_(False)
        thinker.model.language_model.requires_grad_(True)
        thinker.lm_head.requires_grad_(True)
        if options.gradient_checkpointing:
            thinker.model.language_model.activation_checkpointing_enable({"use_reentrant": False})
        # The adapter wrapper holds the same modules as `thinker`; in a tuple they are not registered twice.
        self._adapters: tuple[Any, ...] = ()
        if options.lora is not None:
            self._adapters = (_add_adapters(thinker, options.lora),)
        self.cache: FeatureCache | None = None
        if options.feature_cache is not None:
            # Now, because under ZeRO-3 nobody holds the whole weights later.
            towers = weights_hash(thinker.model.visual, thinker.model.audio_tower)
            self.cache = FeatureCache(options.feature_cache, towers)
        self.thinker = thinker

    @property
    def text(self) -> Decoder:
        """The text model as the policy."""
        return Decoder(self.thinker.model.language_model, self.thinker.lm_head, self.ids)

    def encode(self, batch: OmniBatch, *, always: bool = False) -> ClipFeatures:
        """Features of a batch: from the cache, or by the frozen towers; see `encode_clips`."""
        if self.cache is None:
            return encode_clips(self.thinker, batch, always=always)
        return self.cache.encode(batch, lambda rest: encode_clips(self.thinker, rest, always=always))

    def make_reference(self) -> Reference | None:
        """A frozen copy of the text model as it is now; None with adapters, which can be switched off instead."""
        return None if self._adapters else Reference(self.text)

    @contextlib.contextmanager
    def reference_policy(self, reference: Reference | None) -> Iterator[Decoder]:
        """The reference as a policy: its own copy, or the student without its adapters."""
        if reference is not None:
            yield reference.text
            return
        with self._adapters[0].disable_adapter():
            yield self.text

    def merged(self) -> Qwen2_5OmniThinkerForConditionalGeneration:
        """The plain model, with adapters merged into the weights they belong to (the student cannot train on then)."""
        return self._adapters[0].merge_and_unload() if self._adapters else self.thinker

    def train(self, mode: bool = True) -> Policy:
        """Switch the text model's mode; the frozen towers always stay in evaluation mode."""
        super().train(mode)
        self.thinker.model.visual.eval()
        self.thinker.model.audio_tower.eval()
        return self


class Reference(nn.Module):
    """A frozen copy of a text model.

    Args:
        text: What to copy.
    """

    def __init__(self, text: Decoder) -> None:
        super().__init__()
        self.language_model = copy.deepcopy(text.language_model)
        self.lm_head = copy.deepcopy(text.lm_head)
        self._ids = text.ids
        self.requires_grad_(False)
        self.language_model.activation_checkpointing_disable()
        self.eval()

    @property
    def text(self) -> Decoder:
        """The copy as a policy."""
        return Decoder(self.language_model, self.lm_head, self._ids)

    def train(self, mode: bool = True) -> Reference:
        """Stay in evaluation mode."""
        return super().train(False)


def token_ids(config: Any) -> TokenIds:
    """The special tokens and clock of a thinker configuration."""
    return TokenIds(
        image=config.image_token_id,
        video=config.video_token_id,
        audio=config.audio_token_id,
        audio_bos=config.audio_start_token_id,
        audio_eos=config.audio_end_token_id,
        positions_per_second=config.position_id_per_seconds,
        seconds_per_chunk=config.seconds_per_chunk,
        merge_size=config.vision_config.spatial_merge_size,
    )


def load_policy(options: StudentOptions) -> Policy:
    """Load a student with its processor.

    Raises:
        AvrtError: If the source cannot be found or lacks weights; the message says which.
    """
    dtype = getattr(torch, options.dtype)
    if options.source == NANO:
        thinker, processor = nano_thinker(options.seed)
        return Policy(thinker.to(dtype), processor, options)
    if _looks_like_path(options.source) and not Path(options.source).is_dir():
        raise AvrtError("no such folder", where=options.source, remedy="set model.student.source to a model")
    stock = "sdpa" if options.attention in OURS else options.attention
    try:
        processor = Qwen2_5OmniProcessor.from_pretrained(options.source)
        thinker, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            options.source, dtype=dtype, attn_implementation=stock, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise AvrtError(f"cannot be loaded: {first}", where=options.source, remedy="set model.student.source") from None
    if missing := sorted(report["missing_keys"]):
        raise AvrtError(f"has no weights for {len(missing)} parameters, e.g. {missing[0]}", where=options.source)
    return Policy(thinker, processor, options)


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") != 1


def _add_adapters(thinker: nn.Module, lora: LoraOptions) -> Any:
    try:
        import peft
    except ImportError:
        raise AvrtError(
            "LoRA needs the package peft", where="model.student.lora", remedy="pip install 'avrt[lora]'"
        ) from None
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=_LORA_TARGETS, bias="none"
    )
    return peft.get_peft_model(thinker, config)
