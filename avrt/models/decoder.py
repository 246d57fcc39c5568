"""The trained half of an omni model, in the form that policy and reference share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avrt.models.attention import ATTENTION_IMPLEMENTATIONS, Layout
from avrt.models.encoded_prompts import ClipFeatures
from avrt.models.transformers_internals import attention_name, ready_mask


@dataclass(frozen=True)
class Placeholders:
    """Token ids that stand for a clip's features in a prompt.

    Attributes:
        vision: Those of images and videos.
        audio: That of sound.
    """

    vision: tuple[int, ...]
    audio: int


@dataclass(frozen=True)
class Decoder:
    """Token embeddings, decoder layers and vocabulary projection.

    Attributes:
        language_model: The decoder layers with their embeddings, as transformers has them.
        lm_head: Projection (H -> V).
        placeholders: Where clip features go.
    """

    language_model: Any
    lm_head: nn.Module
    placeholders: Placeholders

    @property
    def supports_packing(self) -> bool:
        """Whether its attention can read packed groups and a shared prefix."""
        return attention_name(self.language_model.config) in ATTENTION_IMPLEMENTATIONS.values()

    def embed(self, token_ids: Tensor, in_prompt: Tensor, features: ClipFeatures) -> Tensor:
        """Token embeddings (B, T, H) with each row's clip features at its placeholders.

        Args:
            token_ids: (B, T), padded as the caller likes.
            in_prompt: (B, T) bool, true at prompt tokens: a policy may well sample a placeholder into its completion,
                where it is a token like any other.
            features: One entry per row.

        Raises:
            RuntimeError: If placeholders and features differ in number.
        """
        embeddings: Tensor = self.language_model.embed_tokens(token_ids)
        is_vision = torch.zeros_like(in_prompt)
        for token in self.placeholders.vision:
            is_vision = is_vision | (token_ids == token)
        for mask_BT, encoded in (
            (in_prompt & is_vision, features.vision),
            (in_prompt & (token_ids == self.placeholders.audio), features.audio),
        ):
            present = [tokens for tokens in encoded if tokens is not None]
            width = embeddings.shape[-1]
            source_NH = torch.cat(present).to(embeddings.dtype) if present else embeddings.new_zeros(0, width)
            if int(mask_BT.sum()) != len(source_NH):
                raise RuntimeError(f"{int(mask_BT.sum())} placeholders for {len(source_NH)} clip features")
            embeddings = embeddings.masked_scatter(mask_BT[..., None], source_NH)
        return embeddings

    def embed_completion(self, token_ids: Tensor) -> Tensor:
        """Embeddings (B, T, H) of completion tokens (B, T)."""
        embeddings: Tensor = self.language_model.embed_tokens(token_ids)
        return embeddings

    def hidden_states(
        self, embeddings: Tensor, positions: Tensor, mask: Tensor | Layout | None, cache: Any = None
    ) -> Tensor:
        """Final hidden states (B, T, H).

        Args:
            embeddings: (B, T, H).
            positions: (3, B, T) TMRoPE positions.
            mask: (B, C + T) with 1 at real tokens, C being what the cache holds; None if all are; or the layout of
                packed groups or of a shared prefix.
            cache: A key-value cache to read and extend.
        """
        output = self.language_model(
            inputs_embeds=embeddings,
            position_ids=positions,
            attention_mask=mask if mask is None or isinstance(mask, Tensor) else ready_mask(mask),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        hidden_BTH: Tensor = output.last_hidden_state
        return hidden_BTH
