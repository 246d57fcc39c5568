"""The dimensions that a decoder's memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avrt.models.layer_caches import LayerCache

FLOAT32, FLOAT64 = 4, 8


@dataclass(frozen=True)
class Shape:
    """What memory depends on.

    Attributes:
        hidden: Width of the decoder, H.
        intermediate: Width of its MLP; of experts, of all that one token meets.
        layers: Number of decoder layers.
        heads: Query heads of a layer.
        query: Width of queries, and of the attention's output, over all heads of a layer.
        key_value: Width of keys, and of values, over all heads of a layer.
        vocabulary: V.
        bytes: Bytes of one weight or activation.
        checkpointing: Whether only each layer's input is kept for the backward pass.
        frozen: Whether the decoder's own weights are frozen, as they are under LoRA.
        adapter_dropout: Whether adapters drop out some of their input.
        experts: Number of experts of a layer; 0 where it has an MLP instead. Then adapters are on attention alone.
        experts_per_token: How many of them one token meets.
        balanced: Whether the update has a router loss, for which the logits of all layers' routers are kept.
        norms_heads: Whether queries and keys are normalized, each head by itself.
        norms: Norms of a layer's hidden states.
        wide_norms: Whether norms multiply by their weights in float32; then values are normalized too.
        beside: Width of what a layer reads beside the hidden states.
        shares: Whether the layers read other layers' keys and values instead of own ones.
        window: How many tokens a token sees; None for all before it.
        capped: Whether logits are capped by a tangent.
        tied: Whether the vocabulary projection is the embeddings' weight.
        kinds: Where layers differ, each kind as a shape of so many layers; the widths above are then the largest.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    query: int
    key_value: int
    vocabulary: int
    bytes: int
    checkpointing: bool
    frozen: bool = False
    adapter_dropout: bool = False
    experts: int = 0
    experts_per_token: int = 0
    balanced: bool = False
    norms_heads: bool = False
    norms: int = 2
    wide_norms: bool = False
    beside: int = 0
    shares: bool = False
    window: int | None = None
    capped: bool = False
    tied: bool = False
    kinds: tuple[Shape, ...] = ()

    @classmethod
    def of(
        cls,
        text_config: Any,
        element_size: int,
        *,
        checkpointing: bool,
        frozen: bool = False,
        adapter_dropout: bool = False,
        norms_heads: bool = False,
        cache: LayerCache | None = None,
    ) -> Shape:
        """The shape that a text configuration of transformers describes; of a layer with a cache where they differ."""
        experts = getattr(text_config, "num_experts", None) or 0
        met = text_config.num_experts_per_tok if experts else 0
        if cache is None:
            head = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
            cache = LayerCache(text_config.num_key_value_heads, head)
        return cls(
            hidden=text_config.hidden_size,
            intermediate=met * text_config.moe_intermediate_size if experts else text_config.intermediate_size,
            layers=text_config.num_hidden_layers,
            heads=text_config.num_attention_heads,
            query=text_config.num_attention_heads * cache.width,
            key_value=cache.heads * cache.width,
            vocabulary=text_config.vocab_size,
            bytes=element_size,
            checkpointing=checkpointing,
            frozen=frozen,
            adapter_dropout=adapter_dropout,
            experts=experts,
            experts_per_token=met,
            norms_heads=norms_heads,
        )

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.query // self.heads

    @property
    def each(self) -> tuple[Shape, ...]:
        """The kinds of layers, each as a shape of so many layers; where all are alike, only this one."""
        return self.kinds or (self,)

    @property
    def cache_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * sum(kind.layers * kind.key_value for kind in self.each if not kind.shares) * self.bytes

    @property
    def copied(self) -> int:
        """Width of one token's hidden states, one copy for each expert that it meets."""
        return self.experts_per_token * self.hidden

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's linear maps that one token meets, biases aside."""
        attention = self.hidden * (2 * self.query + (0 if self.shares else 2 * self.key_value))
        return attention + self.hidden * (3 * self.intermediate + self.experts + 2 * self.beside)

    def layer_weights_read(self, tokens: int) -> float:
        """Weights of one layer that so many tokens meet together, if each chooses its experts by chance."""
        if not self.experts:
            return self.layer_weights
        met = self.experts * (1 - (1 - self.experts_per_token / self.experts) ** tokens)
        every = 3 * self.hidden * self.intermediate // self.experts_per_token
        return self.layer_weights + every * (met - self.experts_per_token)
