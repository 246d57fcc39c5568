"""Everything that relies on private parts of transformers. Written against 5.23; `tests/test_internals.py` checks them.

What is relied on: the registry of attention functions and the name that a configuration keeps of its own; that a mask
which is ready is handed to every layer untouched; the tensors inside key-value caches; the length arithmetic of the
audio tower; the name under which attention layers call the rotary embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_ROTATION = "apply_rotary_pos_emb"
stock_sdpa = sdpa_attention_forward
"""transformers' own SDPA attention function."""


def register_attention(name: str, function: Callable[..., tuple[Tensor, None]]) -> None:
    """Make an attention function known under a name; masks that are not ready are made as for SDPA."""
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)


def attention_name(config: Any) -> str:
    """The attention function that a model's configuration names."""
    return str(config._attn_implementation)


def use_attention(config: Any, name: str) -> None:
    """Have a loaded model use another registered attention function."""
    config._attn_implementation = name


def ready_mask(mask: object) -> dict[str, object]:
    """A mask, of any type, in the form that decoders hand to each layer as it is."""
    return {"full_attention": mask}


def cache_tensors(cache: DynamicCache) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of each layer of a cache that has been filled: (B, key-value heads, T, D) each."""
    return [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]


def fixed_cache(config: Any, rows: int, length: int, like: Tensor) -> StaticCache:
    """A key-value cache of fixed shape.

    Args:
        config: The decoder's configuration.
        rows: Number of rows.
        length: Room in tokens.
        like: Keys of one layer (B, key-value heads, T, D), for heads, width, type and device.
    """
    cache = StaticCache(config=config, max_cache_len=length)
    cache.early_initialization(rows, like.shape[1], like.shape[3], like.dtype, like.device)
    return cache


def audio_token_counts(audio_tower: Any, mel_lengths: Tensor) -> list[int]:
    """How many tokens the audio tower makes of sounds of so many log-mel frames each (n,)."""
    _, tokens = audio_tower._get_feat_extract_output_lengths(mel_lengths)
    counts: list[int] = tokens.tolist()
    return counts


def mark_fixed_address(tensor: Tensor) -> Tensor:
    """Tell `torch.compile` that a tensor keeps its address, which CUDA graphs need."""
    torch._dynamo.mark_static_address(tensor)
    return tensor


def rotation_of(forward: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """The rotary embedding that a class of attention layers calls in its forward pass.

    Raises:
        RuntimeError: If it does not call one by the name we know.
    """
    called = isinstance(forward, FunctionType) and not forward.__closure__ and _ROTATION in forward.__code__.co_names
    if not called:
        raise RuntimeError(f"{forward} does not call {_ROTATION}: fused layers do not fit this release of transformers")
    rotation: Callable[..., tuple[Tensor, Tensor]] = forward.__globals__[_ROTATION]
    return rotation


def with_rotation(
    forward: Callable[..., Any], rotation: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
) -> Callable[..., Any]:
    """A copy of that forward pass with another function for the rotary embedding.

    Args:
        forward: The class's own, which stays as it is.
        rotation: Takes queries, keys, cosines and sines, and returns queries and keys.
    """
    assert isinstance(forward, FunctionType)
    copied = FunctionType(forward.__code__, {**forward.__globals__, _ROTATION: rotation}, forward.__name__)
    copied.__defaults__, copied.__kwdefaults__ = forward.__defaults__, forward.__kwdefaults__
    return copied
