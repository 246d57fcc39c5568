"""Has vLLM 0.32 compute with positions that are fractions, where it has whole numbers.

Transformers gives a step of a Qwen3-Omni video the fraction of a position at which it is shown, and goes on from there,
through text and completion. vLLM cuts the same positions down to whole ones, which are up to 0.6 off. Three places know
of that: the buffer that positions come to the model in, the table in which cosines and sines are looked up by position,
and the count of positions behind a prompt.

To be called before vLLM makes its model. Runs in the engine's own Python environment, so it imports nothing of this
project.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Computed:
    """In the place of the table: cosines and sines of any position.

    Args:
        frequencies: (D / 2,) float32 of the rotation.
        scale: What both are multiplied by.
        dtype: Type of what comes out.
    """

    def __init__(self, frequencies: torch.Tensor, scale: float, dtype: torch.dtype) -> None:
        self._frequencies, self._scale, self._dtype = frequencies, scale, dtype

    def __getitem__(self, positions: torch.Tensor) -> torch.Tensor:
        """(..., D) cosines, then sines, of positions (...)."""
        angles = positions.float()[..., None] * self._frequencies
        return (torch.cat([angles.cos(), angles.sin()], dim=-1) * self._scale).to(self._dtype)


def compute_fractions(runner: Any) -> None:
    """Prepare a model runner, and the classes that its model will be made of.

    Args:
        runner: vLLM's first model runner, before it loads the model.

    Raises:
        RuntimeError: If this version of vLLM has another place for positions.
    """
    from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding as Rotation

    buffer: Any = getattr(runner, "mrope_positions", None)
    needed = ("__init__", "_compute_inv_freq", "_match_cos_sin_cache_dtype", "get_next_input_positions_tensor")
    lacking = [name for name in needed if not hasattr(Rotation, name)]
    if lacking or not hasattr(buffer, "gpu") or not hasattr(buffer, "np"):
        what = ", ".join(lacking) or "mrope_positions"
        raise RuntimeError(f"this vLLM has no {what} as 0.32 has, so it cannot compute with fractions of positions")
    fractions = type(buffer)(*buffer.cpu.shape, dtype=torch.float32, device=buffer.gpu.device)
    if buffer.gpu is buffer.cpu:  # on a CPU they are one
        fractions.gpu = fractions.cpu
    runner.mrope_positions = fractions
    made = Rotation.__init__

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.register_buffer("handed_frequencies", self._compute_inv_freq(self.base).float(), persistent=False)

    def match(self: Any, query: torch.Tensor) -> Computed:
        return Computed(self.handed_frequencies.to(query.device), self.mscale, query.dtype)

    Rotation.__init__ = make
    Rotation._match_cos_sin_cache_dtype = match
    Rotation.get_next_input_positions_tensor = staticmethod(_go_on)


def _go_on(out: Any, out_offset: int, mrope_position_delta: float, context_len: int, num_new_tokens: int) -> None:
    """Positions of the tokens behind a prompt, each rounded to float32 once, as the trainer's are."""
    first = mrope_position_delta + context_len
    out[:, out_offset : out_offset + num_new_tokens] = first + np.arange(num_new_tokens)
