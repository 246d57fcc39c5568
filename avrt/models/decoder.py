"""The trained half of an omni model, in the form that policy and reference share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avrt.models.attention import ATTENTION_IMPLEMENTATIONS, Layout
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.transformers_internals import attention_name, ready_mask


@dataclass(frozen=True)
class Decoder:
    """Token embeddings, decoder layers and vocabulary projection.

    Attributes:
        language_model: The decoder layers with their embeddings, as transformers has them.
        lm_head: Projection (H -> V).
    """

    language_model: Any
    lm_head: nn.Module

    @property
    def supports_packing(self) -> bool:
        """Whether its attention can read packed groups and a shared prefix."""
        return attention_name(self.language_model.config) in ATTENTION_IMPLEMENTATIONS.values()

    def embed(self, token_ids: Tensor, prompts: EncodedPrompts, starts: Sequence[int]) -> Tensor:
        """Token embeddings (B, T, H) with clip features at the placeholders of prompts.

        A placeholder that the policy sampled into a completion is a token like any other.

        Args:
            token_ids: (B, T), padded as the caller likes.
            prompts: The prompts within, whose features are put in.
            starts: Where each prompt begins in the flattened (B * T) tokens.

        Raises:
            RuntimeError: If placeholders and features differ in number.
        """
        embeddings: Tensor = self.language_model.embed_tokens(token_ids)
        flat_NH = embeddings.flatten(0, 1)
        for places, encoded in (
            (prompts.vision_places, prompts.features.vision),
            (prompts.audio_places, prompts.features.audio),
        ):
            present = [tokens for tokens in encoded if tokens is not None]
            wanted, found = sum(map(len, places)), sum(map(len, present))
            if wanted != found:
                raise RuntimeError(f"{wanted} placeholders for {found} clip features")
            if present:
                index = torch.cat([start + at for start, at in zip(starts, places, strict=True) if len(at)])
                flat_NH = flat_NH.index_copy(0, index, torch.cat(present).to(flat_NH.dtype))
        return flat_NH.view_as(embeddings)

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
