"""Qwen3-Omni's decoder: its first layers also read what the vision tower had after some of its own layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from avrt.models.decoder import Decoder, TokenInputs, places_in_row
from avrt.models.encoded_prompts import EncodedPrompts


class Qwen3Decoder(Decoder):
    """The text model, which adds features to the hidden states of picture tokens behind its first layers (DeepStack).

    Completions have none of their own; what they read of them lies in the keys and values of their prompts.
    """

    def embed(self, token_ids: Tensor, prompts: EncodedPrompts, starts: Sequence[int]) -> TokenInputs:
        """Inputs of (B, T) tokens, with clip features at the placeholders of prompts and what is added behind layers.

        Raises:
            RuntimeError: If placeholders and features differ in number.
        """
        inputs = super().embed(token_ids, prompts, starts)
        present = [features for features in prompts.features.vision if features is not None]
        if not present:
            return inputs
        width = inputs.embeddings.shape[-1]
        added = [
            torch.cat([features[:, start : start + width] for features in present])
            for start in range(width, present[0].shape[1], width)
        ]
        beside = {"visual_pos_masks": places_in_row(prompts.vision_places, starts), "deepstack_visual_embeds": added}
        return TokenInputs(inputs.embeddings, beside)
