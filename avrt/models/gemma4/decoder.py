"""Gemma 4's decoder: inputs for each layer beside the embeddings, layers that share keys and values, capped logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from avrt.models.decoder import Decoder, TokenInputs, places_in_row
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.layer_caches import LayerCache
from avrt.models.transformers_internals import SLIDING


@dataclass(frozen=True)
class GemmaDecoder(Decoder):
    """The text model of Gemma 4 with its vocabulary projection, which is the embeddings' own weight.

    The embedding modules scale what they look up; clip features are put in as they are. In the lookup of per-layer
    inputs a clip's placeholders count as padding, as in transformers. A placeholder that the policy sampled is a token
    like any other, there too, when it is sampled and when it is scored; transformers' forward pass would take it for
    padding whose media are missing.
    """

    @property
    def norms(self) -> int:
        """Before and behind attention and MLP, and behind the per-layer inputs."""
        return 5

    @property
    def wide_norms(self) -> bool:
        """They are computed in float32 to the end."""
        return True

    @property
    def mlp_widths(self) -> tuple[int | None, ...]:
        """Twice as wide in E2B's layers that have no keys of their own."""
        return tuple(layer.mlp.intermediate_size for layer in self.language_model.layers)

    @property
    def caches(self) -> list[LayerCache]:
        """Of the layers that have keys and values of their own: full layers have wider heads, sliding ones a window."""
        config = self.language_model.config
        own = [(config.per_layer_config[i], config.layer_types[i]) for i in range(self._own_layers)]
        return [
            LayerCache(layer.num_key_value_heads, layer.head_dim, config.sliding_window if kind == SLIDING else None)
            for layer, kind in own
        ]

    @property
    def cache_of_layer(self) -> tuple[int, ...]:
        """A layer without keys of its own reads those of the last of its kind that has some."""
        kinds, own = self.language_model.config.layer_types, self._own_layers
        last = {kind: layer for layer, kind in enumerate(kinds[:own])}
        return tuple(layer if layer < own else last[kind] for layer, kind in enumerate(kinds))

    @property
    def _own_layers(self) -> int:
        config = self.language_model.config
        return int(config.num_hidden_layers - config.num_kv_shared_layers)

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """The table of per-layer inputs: 2.35 of E2B's 5.1 billion weights, of which a step touches few rows."""
        return (self.language_model.embed_tokens_per_layer,)

    def embed(self, token_ids: Tensor, prompts: EncodedPrompts, starts: Sequence[int]) -> TokenInputs:
        """Embeddings with clip features, and what each layer reads beside them."""
        embeddings = self.with_features(self.language_model.embed_tokens(token_ids), prompts, starts)
        written = token_ids.flatten()
        for places in (prompts.vision_places, prompts.audio_places):
            if any(map(len, places)):
                written = written.index_fill(0, places_in_row(places, starts), self.language_model.config.pad_token_id)
        return TokenInputs(embeddings, self._beside(written.view_as(token_ids)))

    def embed_completion(self, token_ids: Tensor) -> TokenInputs:
        """Embeddings of completion tokens (B, T), and what each layer reads beside them."""
        return TokenInputs(self.language_model.embed_tokens(token_ids), self._beside(token_ids))

    def _beside(self, token_ids: Tensor) -> dict[str, Tensor]:
        """(B, T, layers, width) of the tokens (B, T); the text model adds its projection of the embeddings."""
        return {"per_layer_inputs": self.language_model.get_per_layer_inputs(token_ids)}

    def position_ids(self, positions: Tensor) -> Tensor:
        """(B, T): there is one axis."""
        return positions[0]

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Logits (..., V), capped smoothly (arXiv 2408.00118, section 2)."""
        logits = super().logits(hidden_states)
        cap = self.language_model.config.final_logit_softcapping
        return logits if cap is None else torch.tanh(logits / cap) * cap
