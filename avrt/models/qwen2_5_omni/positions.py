"""Prompt token ids with their TMRoPE positions: placeholders expanded, sound and picture on one clock.

Both are built in one walk over the prompt, so that they cannot disagree; a test compares them with the processor and
the `get_rope_index` of transformers. Nothing here holds state: positions are passed explicitly to prefill, decoding
and scoring.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from avrt.models.qwen_omni.inputs import ClipLayout, MediaTokens


@dataclass(frozen=True)
class SpecialTokens(MediaTokens):
    """The special tokens and clock of one model; 25 positions a second in the released ones.

    Attributes:
        seconds_per_chunk: Length of the alternating stretches when sound is interleaved into video.
    """

    positions_per_second: int = 25
    seconds_per_chunk: float = 2.0

    @classmethod
    def of(cls, config: Any) -> SpecialTokens:
        """Those of a thinker configuration."""
        return cls(**cls.fields_of(config), seconds_per_chunk=config.seconds_per_chunk)


def audio_token_count(mel_frames: int) -> int:
    """Sound tokens that the audio tower makes of `mel_frames` log-mel frames (10 ms each)."""
    return ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1


def expand_prompt(prompt: Sequence[int], layout: ClipLayout, ids: SpecialTokens) -> tuple[Tensor, Tensor]:
    """Expand each media placeholder to its tokens and give every token its position.

    Args:
        prompt: Token ids of the rendered chat, one placeholder per medium.
        layout: What the clip needs.
        ids: The model's special tokens.

    Returns:
        Token ids (T,) and positions (3, T): time, height, width. Text has the same number in all three.

    Raises:
        ValueError: If the prompt has a placeholder that the clip cannot fill.
    """
    tokens: list[int] = []
    blocks: list[Tensor] = []
    next_position = 0
    for token in prompt:
        if token == ids.video and layout.video_grid is not None:
            grid = _grid_positions(layout.video_grid, layout.seconds_per_grid, ids)
            if layout.interleaved:
                # The sound's begin and end marks share the positions of the picture's.
                blocks.append(torch.full((3, 1), next_position - 1))
                media_ids, media = _interleave(grid, layout.audio_tokens, ids)
                blocks += [media + next_position, torch.full((3, 1), int(media.max()) + 1 + next_position)]
                tokens += [ids.audio_bos, *media_ids, ids.audio_eos]
                next_position += int(media.max()) + 1
            else:
                blocks.append(grid + next_position)
                tokens += [ids.video] * grid.shape[1]
                next_position += int(grid.max()) + 1
        elif token == ids.image and layout.image_grid is not None:
            grid = _grid_positions(layout.image_grid, 1.0, ids)
            blocks.append(grid + next_position)
            tokens += [ids.image] * grid.shape[1]
            next_position += int(grid.max()) + 1
        elif token == ids.audio and layout.audio_tokens:
            blocks.append(torch.arange(layout.audio_tokens).expand(3, -1) + next_position)
            tokens += [ids.audio] * layout.audio_tokens
            next_position += layout.audio_tokens
        elif token in (ids.video, ids.image, ids.audio):
            raise ValueError(f"the prompt has a media placeholder (token {token}) that the clip has nothing for")
        else:
            blocks.append(torch.full((3, 1), next_position))
            tokens.append(token)
            next_position += 1
    return torch.tensor(tokens), torch.cat(blocks, dim=1)


def _grid_positions(grid: tuple[int, int, int], seconds_per_grid: float, ids: SpecialTokens) -> Tensor:
    """Positions (3, t*h*w) of picture tokens relative to their first."""
    steps, height, width = grid[0], grid[1] // ids.merge_size, grid[2] // ids.merge_size
    # float32 and truncation as in the released model, whose weights were trained on exactly these integers
    time = (torch.arange(steps) * torch.tensor(seconds_per_grid).float() * ids.positions_per_second).long()
    return torch.stack(torch.meshgrid(time, torch.arange(height), torch.arange(width), indexing="ij")).flatten(1)


def _interleave(video: Tensor, audio_tokens: int, ids: SpecialTokens) -> tuple[list[int], Tensor]:
    """Alternate picture (3, V) and sound tokens in stretches of `seconds_per_chunk`, picture first."""
    audio = torch.arange(audio_tokens).expand(3, -1)
    chunk = int(ids.positions_per_second * ids.seconds_per_chunk)
    tokens: list[int] = []
    parts: list[Tensor] = []
    video_parts, audio_parts = list(_chunks(video, chunk)), list(_chunks(audio, chunk))
    for i in range(max(len(video_parts), len(audio_parts))):
        for token, chunks in ((ids.video, video_parts), (ids.audio, audio_parts)):
            if i < len(chunks):
                parts.append(chunks[i])
                tokens += [token] * chunks[i].shape[1]
    return tokens, torch.cat(parts, dim=1)


def _chunks(positions: Tensor, size: int) -> Iterator[Tensor]:
    """Split (3, N) by its ascending times; as in the released model a boundary crossed late moves only one step."""
    start, boundary = 0, size
    for i, time in enumerate(positions[0].tolist()):
        if time >= boundary:
            yield positions[:, start:i]
            start, boundary = i, boundary + size
    yield positions[:, start:]
