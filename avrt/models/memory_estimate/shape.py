"""The dimensions that a decoder's memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FLOAT32, FLOAT64 = 4, 8


@dataclass(frozen=True)
class Shape:
    """What memory depends on.

    Attributes:
        hidden: Width of the decoder, H.
        intermediate: Width of its MLP.
        layers: Number of decoder layers.
        heads: Query heads of a layer.
        query: Width of queries, and of the attention's output, over all heads of a layer.
        key_value: Width of keys, and of values, over all heads of a layer.
        vocabulary: V.
        bytes: Bytes of one weight or activation.
        checkpointing: Whether only each layer's input is kept for the backward pass.
        frozen: Whether the decoder's own weights are frozen, as they are under LoRA.
        adapter_dropout: Whether adapters drop out some of their input.
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

    @classmethod
    def of(
        cls,
        text_config: Any,
        element_size: int,
        *,
        checkpointing: bool,
        frozen: bool = False,
        adapter_dropout: bool = False,
    ) -> Shape:
        """The shape that a text configuration of transformers describes."""
        head = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
        return cls(
            hidden=text_config.hidden_size,
            intermediate=text_config.intermediate_size,
            layers=text_config.num_hidden_layers,
            heads=text_config.num_attention_heads,
            query=text_config.num_attention_heads * head,
            key_value=text_config.num_key_value_heads * head,
            vocabulary=text_config.vocab_size,
            bytes=element_size,
            checkpointing=checkpointing,
            frozen=frozen,
            adapter_dropout=adapter_dropout,
        )

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.query // self.heads

    @property
    def cache_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers."""
        return 2 * self.layers * self.key_value * self.bytes

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's linear maps, biases aside."""
        attention = self.hidden * (2 * self.query + 2 * self.key_value)
        return attention + 3 * self.hidden * self.intermediate
