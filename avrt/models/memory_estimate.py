"""What the phases of a GRPO step should take in memory, from the model's shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avrt.objectives.token_scores import CHUNK_TOKENS

FLOAT32 = 4


@dataclass(frozen=True)
class Shape:
    """What memory depends on.

    Attributes:
        hidden: Width of the decoder, H.
        intermediate: Width of its MLP.
        layers: Number of decoder layers.
        key_value: Width of keys, and of values, over all heads of a layer.
        vocabulary: V.
        bytes: Bytes of one weight or activation.
        checkpointing: Whether only each layer's input is kept for the backward pass.
    """

    hidden: int
    intermediate: int
    layers: int
    key_value: int
    vocabulary: int
    bytes: int
    checkpointing: bool

    @classmethod
    def of(cls, text_config: Any, element_size: int, *, checkpointing: bool) -> Shape:
        """The shape that a text configuration of transformers describes."""
        head = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
        return cls(
            text_config.hidden_size,
            text_config.intermediate_size,
            text_config.num_hidden_layers,
            text_config.num_key_value_heads * head,
            text_config.vocab_size,
            element_size,
            checkpointing,
        )


def expected_bytes(shape: Shape, prompts: Sequence[int], group_size: int, answer: int) -> dict[str, int]:
    """Bytes beside the weights that each phase takes for some prompts with their groups, all answers of one length.

    Args:
        shape: The model's shape.
        prompts: Tokens of each prompt.
        group_size: G.
        answer: Tokens of each answer, R.

    Returns:
        `rollout` (the caches, and the logits of one step), `reference` (one layer's tensors, and logits of one chunk)
        and `update` (activations kept for the backward pass, and logits of one chunk, recomputed).
    """
    rows = len(prompts) * group_size
    tokens = sum(prompts) + rows * answer
    cache = 2 * shape.layers * shape.key_value * tokens * shape.bytes
    layer = tokens * _layer_bytes(shape)
    passing = tokens * (4 * shape.hidden + 3 * shape.intermediate) * shape.bytes  # nothing is kept without gradients
    scored = min(CHUNK_TOKENS, rows * answer)
    logits = scored * shape.vocabulary * shape.bytes
    wide_logits = scored * shape.vocabulary * FLOAT32
    kept = shape.layers * (tokens * shape.hidden * shape.bytes if shape.checkpointing else layer)
    return {
        "rollout": cache + rows * shape.vocabulary * 3 * FLOAT32,
        "reference": passing + logits + 2 * wide_logits,
        # one layer, recomputed, with its gradients; in float32 the logits, three things made of them, their gradient
        "update": kept + (2 * layer if shape.checkpointing else 0) + logits + 5 * wide_logits,
    }


def _layer_bytes(shape: Shape) -> int:
    """Bytes per token that a decoder layer keeps for its backward pass.

    In the model's type: the inputs of two norms, their outputs, queries and attention output, the output projection's
    input, keys and values, and four of the MLP's width; the norms keep their input in float32 as well.
    """
    wide = 7 * shape.hidden + 2 * shape.key_value + 4 * shape.intermediate
    return wide * shape.bytes + 2 * shape.hidden * FLOAT32


def weight_bytes(
    trained: int, frozen: int, element_size: int, *, reference: bool, stage: int, ranks: int, offload: bool
) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer states on one device under DeepSpeed ZeRO.

    Args:
        trained: Parameters that are trained.
        frozen: Parameters that are not, the reference aside.
        element_size: Bytes of one weight.
        reference: Whether a frozen copy of the trained ones is kept.
        stage: ZeRO stage; 1 splits optimizer states, 2 gradients too, 3 weights too.
        ranks: Number of devices.
        offload: Whether optimizer states are in the host's memory.
    """
    weights = (trained * (2 if reference else 1) + frozen) * element_size
    states = 0 if offload else trained * 3 * FLOAT32
    return {
        "weights": weights / (ranks if stage >= 3 else 1),
        "gradients": trained * element_size / (ranks if stage >= 2 else 1),
        "optimizer": states / (ranks if stage >= 1 else 1),
    }
