"""The trained half of an omni model, in the form that policy and reference share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from avrt.models.attention import ATTENTION_IMPLEMENTATIONS, Layout
from avrt.models.encoded_prompts import EncodedPrompts
from avrt.models.layer_caches import LayerCache
from avrt.models.packing import reads_trees
from avrt.models.transformers_internals import attention_name, with_layout
from avrt.transfer import tensor_on


@dataclass(frozen=True)
class TokenInputs:
    """What the decoder layers read of (B, T) tokens.

    Attributes:
        embeddings: (B, T, H), clip features in their places.
        beside: What a family's layers read beside them, by transformers' name for it.
    """

    embeddings: Tensor
    beside: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoder:
    """Token embeddings, decoder layers and vocabulary projection; a family whose layers read more has its own subclass.

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

    @property
    def reads_trees(self) -> bool:
        """Whether a group's completions may be a tree in its packed rows."""
        weight, width = next(self.lm_head.parameters()), max(cache.width for cache in self.caches)
        name = attention_name(self.language_model.config)
        return name == ATTENTION_IMPLEMENTATIONS["sdpa"] and reads_trees(weight, width)

    @property
    def norms_heads(self) -> bool:
        """Whether its layers normalize queries and keys, each head by itself."""
        return hasattr(self.language_model.layers[0].self_attn, "q_norm")

    @property
    def norms(self) -> int:
        """How often a layer normalizes its hidden states."""
        return 2

    @property
    def wide_norms(self) -> bool:
        """Whether norms multiply by their weights in float32; then values are normalized too."""
        return False

    @property
    def mlp_widths(self) -> tuple[int | None, ...]:
        """For each layer the width of its MLP, where it is not the configuration's."""
        return (None,) * int(self.language_model.config.num_hidden_layers)

    @property
    def caches(self) -> list[LayerCache]:
        """Key-value caches that its layers fill, in the order of the layers that fill them."""
        config = self.language_model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return [LayerCache(config.num_key_value_heads, width)] * int(config.num_hidden_layers)

    @property
    def cache_of_layer(self) -> tuple[int, ...]:
        """For each layer the number of the cache that it reads: its own, unless layers share keys and values."""
        return tuple(range(self.language_model.config.num_hidden_layers))

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """Parts of it that are not trained, whatever is; the reference shares them."""
        return ()

    def embed(self, token_ids: Tensor, prompts: EncodedPrompts, starts: Sequence[int]) -> TokenInputs:
        """Inputs of (B, T) tokens, with clip features at the placeholders of prompts.

        A placeholder that the policy sampled into a completion is a token like any other.

        Args:
            token_ids: (B, T), padded as the caller likes.
            prompts: The prompts within, whose features are put in.
            starts: Where each prompt begins in the flattened (B * T) tokens.

        Raises:
            RuntimeError: If placeholders and features differ in number.
        """
        return TokenInputs(self.with_features(self.language_model.embed_tokens(token_ids), prompts, starts))

    def embed_completion(self, token_ids: Tensor) -> TokenInputs:
        """Inputs of completion tokens (B, T)."""
        return TokenInputs(self.language_model.embed_tokens(token_ids))

    def with_features(self, embeddings: Tensor, prompts: EncodedPrompts, starts: Sequence[int]) -> Tensor:
        """Embeddings (B, T, H) with the first H numbers of each clip feature at its placeholder; idle ones count 0."""
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
                features = torch.cat(present)[:, : flat_NH.shape[1]].to(flat_NH.dtype)
                flat_NH = flat_NH.index_copy(0, places_in_row(places, starts), features)
        for tokens in prompts.features.idle:
            flat_NH = flat_NH + 0 * tokens.flatten()[0].to(flat_NH.dtype)
        return flat_NH.view_as(embeddings)

    def hidden_states(
        self,
        inputs: TokenInputs,
        positions: Tensor,
        mask: Tensor | Layout | None,
        cache: Any = None,
        wanted: Sequence[int] | None = None,
    ) -> Tensor:
        """Final hidden states (B, T, H).

        Args:
            inputs: Of (B, T) tokens.
            positions: (3, B, T) of time, height and width.
            mask: (B, C + T) with 1 at real tokens, C being what the cache holds; None if all are; or the layout of
                packed groups or of a shared prefix.
            cache: A key-value cache to read and extend.
            wanted: Which of the flattened (B * T) tokens' states are looked at, ascending; of the others the last MLP
                may be left out. None for all.
        """
        with self._last_mlp_at(wanted, inputs.embeddings):
            hidden_BTH: Tensor = self._run(inputs, positions, mask, cache).last_hidden_state
        return hidden_BTH

    @contextlib.contextmanager
    def _last_mlp_at(self, wanted: Sequence[int] | None, embeddings: Tensor) -> Iterator[None]:
        """Have the last layer's MLP read some tokens alone, inside; what it adds to the others is 0.

        No layer reads what it adds, and prompts are most of the tokens. On the CPU alone: elsewhere it would be more
        launches. A layer that is recomputed in the backward pass is left alone: it would read all of them there.
        """
        layers = self.language_model.layers
        recomputed = torch.is_grad_enabled() and getattr(layers[-1], "gradient_checkpointing", False)
        if wanted is None or embeddings.device.type != "cpu" or recomputed or self.experts_per_token is not None:
            yield
            return
        mlp, places = layers[-1].mlp, tensor_on(wanted, embeddings.device)
        whole, own = mlp.forward, vars(mlp).get("forward")

        def at_places(hidden: Tensor) -> Tensor:
            flat = hidden.flatten(0, -2)
            some: Tensor = whole(flat.index_select(0, places))
            return torch.zeros_like(flat).index_copy(0, places, some).view_as(hidden)

        mlp.forward = at_places
        try:
            yield
        finally:
            del mlp.forward
            if own is not None:
                mlp.forward = own

    @property
    def experts_per_token(self) -> int | None:
        """To how many experts each token goes; None for a decoder without experts."""
        config = self.language_model.config
        return getattr(config, "num_experts_per_tok", None) if getattr(config, "num_experts", None) else None

    @property
    def can_be_recorded(self) -> bool:
        """Whether its step can be recorded as a CUDA graph where it is."""
        weight = next(self.lm_head.parameters())
        if self.experts_per_token is None or not weight.is_cuda:
            return True
        return experts_stay_on_device(weight.dtype, torch.cuda.get_device_capability(weight.device))

    def states_and_routing(
        self, inputs: TokenInputs, positions: Tensor, mask: Tensor | Layout | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Final hidden states (B, T, H), and of each layer that has experts E its router's logits (B * T, E)."""
        output = self._run(inputs, positions, mask, output_router_logits=True)
        return output.last_hidden_state, tuple(output.router_logits)

    def _run(
        self, inputs: TokenInputs, positions: Tensor, mask: Tensor | Layout | None, cache: Any = None, **asked: bool
    ) -> Any:
        """What transformers' model returns."""
        attended = {"attention_mask": mask} if mask is None or isinstance(mask, Tensor) else with_layout(mask)
        return self.language_model(
            inputs_embeds=inputs.embeddings,
            position_ids=self.position_ids(positions),
            past_key_values=cache,
            use_cache=cache is not None,
            **attended,
            **inputs.beside,
            **asked,
        )

    def position_ids(self, positions: Tensor) -> Tensor:
        """Positions (3, B, T) in the form that the layers take."""
        return positions

    def logits(self, hidden_states: Tensor) -> Tensor:
        """Logits (..., V) of the tokens behind hidden states (..., H)."""
        logits: Tensor = self.lm_head(hidden_states)
        return logits


def experts_stay_on_device(dtype: torch.dtype, capability: tuple[int, int]) -> bool:
    """Whether PyTorch computes experts' grouped product without asking the GPU how many tokens each one has.

    A CUDA graph cannot be recorded otherwise. Read in PyTorch's GroupedBlas.cpp: in bfloat16 it is one kernel on cards
    of compute capability 9 and 10 (H100, H200, B200); elsewhere a product for each expert.
    """
    return dtype == torch.bfloat16 and capability[0] in (9, 10)


def places_in_row(places: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """(n,) where the placeholders of prompts, `places` in each, lie in the flattened tokens."""
    return torch.cat([start + at for start, at in zip(starts, places, strict=True) if len(at)])
