"""Everything that relies on private parts of transformers. Written against 5.23; `tests/test_internals.py` checks them.

What is relied on: the registry of attention functions and the name that a configuration keeps of its own; that no mask
is made where one of four dimensions is given, and that attention functions are given what a decoder does not know; the
tensors inside key-value caches, and what a decoder asks of one;
what Qwen's towers work out from the sizes of their inputs, and that they take it ready made; the name under which
attention layers call the rotary embedding; that Qwen3-Omni's decoder adds the vision tower's features by a method of
its own, and its audio tower's convolutions, and how many stretches these take at a time; what decides which process
saves a model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import (
    chunk_and_pad_features,
    get_audio_cu_seqlens,
    get_pool_indices,
    get_valid_indices,
)
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as qwen3_omni
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from avrt.transfer import to_device

_ROTATION = "apply_rotary_pos_emb"
FULL, SLIDING = "full_attention", "sliding_attention"
"""What configurations call layers that see all tokens before, and those that see a window."""
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


def save_here(model: Any, folder: Path, state: dict[str, Tensor]) -> None:
    """Save a state as a model's, by this process, whatever its rank; transformers would let the first one alone.

    Args:
        model: The model, whose configuration is saved beside.
        folder: Where to, each process its own.
        state: Tensors by name.
    """
    model.should_save_on_this_rank = lambda is_main_process: True
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        del model.should_save_on_this_rank


_NO_MASK = torch.empty(0, 0, 0, 0)


def with_layout(layout: object) -> dict[str, object]:
    """Arguments of a decoder that have every layer give its attention function this `layout`, and make no mask.

    A mask of four dimensions is taken for one that is ready, and further arguments reach the attention function.
    """
    return {"attention_mask": _NO_MASK, "layout": layout}


def cache_tensors(cache: DynamicCache) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of each layer of a cache that has been filled: (B, key-value heads, T, D) each."""
    return [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]


@lru_cache(maxsize=64)
def picture_layout(
    grids: tuple[tuple[int, int, int], ...], merge_size: int, window_size: int, patch_size: int
) -> dict[str, Any]:
    """What Qwen's vision tower works out from the sizes of pictures and videos, in the form that it takes ready made.

    Args:
        grids: Patches of each in time, height and width.
        merge_size: Side of the square of patches that becomes one token.
        window_size: Side of the tower's windows in pixels.
        patch_size: Side of a patch in pixels.

    Returns:
        Keyword arguments of the tower, tensors on the CPU.
    """
    sizes = torch.tensor(grids, device="cpu")
    ends = get_vision_cu_seqlens(sizes)
    with torch.device("cpu"):
        index, window_ends = get_vision_window_index(sizes, merge_size, window_size, patch_size)
        positions = get_vision_position_ids(sizes, merge_size)
    return {
        "position_ids": positions,
        "cu_seqlens": ends,
        "max_seqlen": int(ends.diff().max()),
        "window_index": index,
        "cu_window_seqlens": window_ends,
        "max_window_seqlen": int(window_ends.diff().max()),
    }


@lru_cache(maxsize=64)
def sound_layout(lengths: tuple[int, ...], half_chunk: int) -> dict[str, Any]:
    """What Qwen's audio tower works out from the lengths of sounds, likewise; in log-mel frames, as is half a chunk."""
    with torch.device("cpu"):
        _, chunks = chunk_and_pad_features(torch.zeros(1, sum(lengths)), torch.tensor(lengths), half_chunk)
        ends = get_audio_cu_seqlens(chunks)
        return {
            "chunk_lengths": chunks,
            "valid_indices": get_valid_indices(chunks),
            "pool_indices": get_pool_indices(torch.tensor(lengths)),
            "cu_seqlens": ends,
            "max_seqlen": int(ends.diff().max()),
        }


@lru_cache(maxsize=64)
def qwen3_picture_layout(grids: tuple[tuple[int, int, int], ...], merge_size: int, side: int) -> dict[str, Any]:
    """What Qwen3-Omni's vision tower works out from the sizes of pictures and videos, in the form that it takes.

    Args:
        grids: Patches of each in time, height and width.
        merge_size: Side of the square of patches that becomes one token.
        side: Side of the square of learned positions, which are interpolated.

    Returns:
        Keyword arguments of the tower, tensors on the CPU.
    """
    sizes = torch.tensor(grids, device="cpu")
    ends = get_vision_cu_seqlens(sizes)
    with torch.device("cpu"):
        index, weights = get_vision_interpolation_indices_and_weights(
            sizes, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=merge_size
        )
        positions = get_vision_position_ids(sizes, merge_size)
    return {
        "interp_indices": index,
        "interp_weights": weights,
        "position_ids": positions,
        "cu_seqlens": ends,
        "max_seqlen": int(ends.diff().max()),
    }


@lru_cache(maxsize=64)
def qwen3_sound_layout(lengths: tuple[int, ...], half_chunk: int, window: int) -> dict[str, Any]:
    """What Qwen3-Omni's audio tower works out from the lengths of sounds, likewise; all in log-mel frames.

    Args:
        lengths: Of each sound.
        half_chunk: Half of what goes through the convolutions together.
        window: How far attention reaches.
    """
    with torch.device("cpu"):
        sizes = torch.tensor(lengths)
        _, chunks = qwen3_omni.chunk_and_pad_features(torch.zeros(1, sum(lengths)), sizes, half_chunk)
        ends = qwen3_omni.get_audio_cu_seqlens(chunks, sizes, window, half_chunk)
        return {
            "chunk_lengths": chunks,
            "valid_indices": qwen3_omni.get_valid_indices(chunks, half_chunk),
            "cu_seqlens": ends,
            "max_seqlen": int(ends.diff().max()),
        }


@contextlib.contextmanager
def qwen3_sounds_apart(
    tower: Any, widths: Sequence[int], width: int, device: torch.device, *, at_once: bool
) -> Iterator[None]:
    """Have Qwen3-Omni's audio tower see each stretch of sound as if the others were no longer than it, inside.

    Its three convolutions of stride 2 read over the end of a stretch: nothing where it is as long as the longest, but
    what the one before makes of silence where it is padded. Zeros in that place are what a stretch by itself meets.

    Args:
        tower: The tower.
        widths: Frames of each stretch.
        width: Frames of the longest, to which all are padded.
        device: The tower's.
        at_once: Have the convolutions take all stretches together, however many there are.
    """
    most = tower.conv_chunksize
    if at_once:
        tower.conv_chunksize = max(most, len(widths))
    hooks = []
    if min(widths) < width:
        for convolution in (tower.conv2d2, tower.conv2d3):
            widths, width = [(n + 1) // 2 for n in widths], (width + 1) // 2
            real = torch.arange(width, device="cpu") < torch.tensor(widths, device="cpu")[:, None]
            parts = iter(torch.split(to_device(real[:, None, None], device), tower.conv_chunksize))
            hooks.append(convolution.register_forward_pre_hook(lambda _, given, parts=parts: given[0] * next(parts)))
    try:
        yield
    finally:
        tower.conv_chunksize = most
        for hook in hooks:
            hook.remove()


def _add_features(hidden_states: Tensor, places: Tensor, features: Tensor) -> Tensor:
    """Add features (n, H) to hidden states (B, T, H) at some places: a mask (B, T), or (n,) indices of (B * T) tokens.

    transformers has the mask alone, for which a GPU is waited for.
    """
    if places.dtype == torch.bool:
        added: Tensor = qwen3_omni.Qwen3OmniMoeThinkerTextModel._deepstack_process(
            None, hidden_states, places, features
        )
        return added
    flat = hidden_states.flatten(0, 1)
    return flat.index_add(0, places, features.to(flat.dtype)).view_as(hidden_states)


def add_features_at_places(language_model: Any) -> None:
    """Have Qwen3-Omni's text model take `visual_pos_masks` also as indices of its flattened tokens."""
    language_model._deepstack_process = _add_features


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
