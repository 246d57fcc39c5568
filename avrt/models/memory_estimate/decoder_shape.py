"""The shape of a decoder, whose layers may differ in width and may share keys and values."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from avrt.models.decoder import Decoder
from avrt.models.memory_estimate.shape import Shape


def shape_of_decoder(
    decoder: Decoder, element_size: int, *, checkpointing: bool, frozen: bool = False, adapter_dropout: bool = False
) -> Shape:
    """What memory and time depend on of a decoder; its weights are not looked at.

    Args:
        decoder: The decoder.
        element_size: Bytes of one weight or activation.
        checkpointing: Whether only each layer's input is kept for the backward pass.
        frozen: Whether its own weights are frozen, as they are under LoRA.
        adapter_dropout: Whether adapters drop out some of their input.
    """
    config = decoder.language_model.config
    shape = replace(
        Shape.of(
            config,
            element_size,
            checkpointing=checkpointing,
            frozen=frozen,
            adapter_dropout=adapter_dropout,
            norms_heads=decoder.norms_heads,
            cache=decoder.caches[0],
        ),
        norms=decoder.norms,
        wide_norms=decoder.wide_norms,
        beside=getattr(config, "hidden_size_per_layer_input", None) or 0,
        capped=getattr(config, "final_logit_softcapping", None) is not None,
        tied=decoder.lm_head.weight is decoder.language_model.embed_tokens.weight,
    )
    caches, filled = decoder.caches, set[int]()
    layers: Counter[Shape] = Counter()
    for number, cache in zip(decoder.mlp_widths, decoder.cache_of_layer, strict=True):
        kind = caches[cache]
        layers[
            replace(
                shape,
                intermediate=number or shape.intermediate,
                query=shape.heads * kind.width,
                key_value=kind.heads * kind.width,
                shares=cache in filled,
                window=kind.window,
            )
        ] += 1
        filled.add(cache)
    if len(layers) == 1:
        return shape
    kinds = tuple(replace(kind, layers=count) for kind, count in layers.items())
    widest = {name: max(getattr(kind, name) for kind in kinds) for name in ("intermediate", "query", "key_value")}
    return replace(shape, **widest, kinds=kinds)
