"""Prompt token ids with their TMRoPE positions: placeholders expanded, sound and picture on one clock of 80 ms.

Both are built in one walk over the prompt, so that they cannot disagree; a test compares them with the processor and
the `get_rope_index` of transformers. Positions are fractions, and are added up in float32 in the same order as there:
which of two neighbours is the larger has to come out alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avrt.models.qwen_omni.inputs import ClipLayout, Grid, MediaTokens

TOKENS_PER_CHUNK = 13
"""Sound tokens of a whole stretch of `sound_chunk` frames, as transformers has it."""


@dataclass(frozen=True)
class SpecialTokens(MediaTokens):
    """The special tokens and clock of one model; 13 positions a second in the released ones.

    Attributes:
        sound_chunk: Frames of log-mel that go through the audio tower's convolutions together, a second.
    """

    positions_per_second: int = 13
    sound_chunk: int = 100

    @classmethod
    def of(cls, config: Any) -> SpecialTokens:
        """Those of a thinker configuration."""
        return cls(**cls.fields_of(config), sound_chunk=2 * config.audio_config.n_window)


def audio_token_count(mel_frames: int, chunk: int = 100) -> int:
    """Sound tokens that the audio tower makes of `mel_frames` log-mel frames (10 ms each): 13 for each whole chunk."""
    whole, rest = divmod(mel_frames, chunk)
    for _ in range(3):  # convolutions of stride 2
        rest = (rest + 1) // 2
    return TOKENS_PER_CHUNK * whole + rest


def expand_prompt(prompt: Sequence[int], layout: ClipLayout, ids: SpecialTokens) -> tuple[Tensor, Tensor]:
    """Expand each media placeholder to its tokens and give every token its position.

    Args:
        prompt: Token ids of the rendered chat, one placeholder per medium.
        layout: What the clip needs.
        ids: The model's special tokens.

    Returns:
        Token ids (T,) and float32 positions (3, T): time, height, width. Text has the same number in all three.

    Raises:
        ValueError: If the prompt has a placeholder that the clip cannot fill.
    """
    walk = _Walk()
    for token in prompt:
        if token == ids.video and layout.video_grid is not None:
            grid = _grid_positions(layout.video_grid, layout.seconds_per_grid, ids)
            if layout.interleaved:
                # Begin and end marks of the sound have positions of their own, beside the picture's.
                walk.text(ids.audio_bos)
                walk.media(*_interleave(grid, layout, ids), begin_marks=2)
                walk.text(ids.audio_eos)
            else:
                walk.media([ids.video] * grid.shape[1], grid)
        elif token == ids.image and layout.image_grid is not None:
            grid = _grid_positions(layout.image_grid, 1.0, ids)
            walk.media([ids.image] * grid.shape[1], grid)
        elif token == ids.audio and layout.audio_tokens:
            walk.media([ids.audio] * layout.audio_tokens, _sound_positions(layout.audio_tokens))
        elif token in (ids.video, ids.image, ids.audio):
            raise ValueError(f"the prompt has a media placeholder (token {token}) that the clip has nothing for")
        else:
            walk.text(token)
    return torch.tensor(walk.tokens), torch.cat(walk.blocks, dim=1)


class _Walk:
    """Tokens and positions so far.

    transformers adds a run of text to where it begins, and counts the marks around media by themselves; with fractions
    the order of additions shows in the last bit.
    """

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.blocks: list[Tensor] = []
        self._begin = torch.tensor(0.0)  # of the run of text
        self._run = 0
        self._end_marks = 0  # that are still to come

    def text(self, token: int) -> None:
        """A token of text, or a mark."""
        self.tokens.append(token)
        position = self._begin + self._run
        self.blocks.append(position.expand(3, 1))
        self._run += 1
        if self._run == self._end_marks:
            self._begin, self._run, self._end_marks = position + 1, 0, 0

    def media(self, tokens: list[int], positions: Tensor, last: int | None = None, *, begin_marks: int = 1) -> None:
        """A medium.

        Args:
            tokens: Its n tokens.
            positions: (3, n) from its own beginning on.
            last: How many tokens its last part has, behind whose largest position the prompt goes on; all if None.
            begin_marks: How many of the tokens so far begin it, as many as will end it.
        """
        marks = min(begin_marks, self._run)
        placed = positions + ((self._begin + (self._run - marks)) + marks)
        self.tokens += tokens
        self.blocks.append(placed)
        self._begin, self._run = placed[:, -(last or len(tokens)) :].max() + 1, 0
        self._end_marks = begin_marks


def _grid_positions(grid: Grid, seconds_per_grid: float, ids: SpecialTokens) -> Tensor:
    """Positions (3, t*h*w) of picture tokens relative to their first."""
    steps, height, width = grid[0], grid[1] // ids.merge_size, grid[2] // ids.merge_size
    time = torch.arange(steps) * torch.tensor(seconds_per_grid).float() * ids.positions_per_second
    axes = time, torch.arange(height).float(), torch.arange(width).float()
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def _sound_positions(tokens: int) -> Tensor:
    """Positions (3, n) of sound tokens relative to their first."""
    return torch.arange(tokens).float().expand(3, -1)


def _interleave(video: Tensor, layout: ClipLayout, ids: SpecialTokens) -> tuple[list[int], Tensor, int]:
    """Picture (3, V) and sound tokens by their times, of equal ones the picture first.

    Times are compared in float64 from 0 on, as the processor and vLLM compare them. transformers' `get_rope_index`
    compares float32 with the prompt's length added, and where a step falls on a sound token but for rounding it may
    order them the other way round, against its own processor's tokens. Here each token has the position that is its
    own whichever comes first, so that features are in step with tokens.

    Returns:
        Tokens, positions, and how many tokens lie behind the last change from one to the other.
    """
    steps = layout.video_grid[0] if layout.video_grid else 0
    each = video.shape[1] // steps
    sound = _sound_positions(layout.audio_tokens)
    tokens: list[int] = []
    parts: list[Tensor] = []
    heard = last = 0
    for step in range(steps):
        before = min(layout.audio_tokens, math.ceil(step * layout.seconds_per_grid * ids.positions_per_second))
        tokens += [ids.audio] * (before - heard) + [ids.video] * each
        parts += [sound[:, heard:before], video[:, step * each : (step + 1) * each]]
        # once the sound has ended, all steps that are left are one part
        last = each + (last if heard == layout.audio_tokens else 0)
        heard = before
    rest = layout.audio_tokens - heard
    return tokens + [ids.audio] * rest, torch.cat([*parts, sound[:, heard:]], dim=1), rest or last
