"""The batch: what a policy is given of B samples."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avrt.data.media.clip import Clip
from avrt.data.sample import Sample
from avrt.transfer import tensor_on, to_device


@dataclass(frozen=True)
class PixelScale:
    """How the processor scales pixels: (value - mean) / std, in units of uint8 values.

    Attributes:
        mean: For each colour channel.
        std: For each colour channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, patches: Tensor) -> Tensor:
        """Scale (n, 3 * T * P * P) uint8 patches to float32."""
        mean, std = (tensor_on(v, patches.device)[None, :, None] for v in (self.mean, self.std))
        channels = patches.view(len(patches), len(self.mean), -1).float()
        return channels.sub_(mean).div_(std).view(len(patches), -1)


ON_HOST = ("grids", "mel_lengths")
"""Attributes of a batch that stay on the CPU."""


class OmniBatch:
    """Inputs of B samples. Prompts stay ragged lists, so that each user pads or packs them as it needs.

    Not a dataclass: Lightning would walk into one and convert every number inside to the run's precision.

    Attributes:
        samples: The B records; a padding sample stands for none and is marked in `valid`.
        prompt_ids: B tensors (P_i,): token ids with placeholders expanded.
        prompt_positions: B tensors (3, P_i): positions in time, height and width (TMRoPE); where a family has one
            axis, all three are the same.
        position_ends: For each prompt its largest position + 1, where its completion goes on; a number on the host.
        vision_places: B tensors (n,): where in each prompt the picture tokens are.
        audio_places: B tensors (n,): where in each prompt the sound tokens are.
        completion_ids: B tensors (R_i,): target tokens including the end token; empty where there is no target.
        valid: (B,) bool; False rows only keep ranks in step and count for nothing.
        clips: The decoded clips, which stay on the CPU: rewards and callbacks look at them, the feature cache hashes
            them, and an engine that prepares media by itself needs them.
        pixels: (patches, C) uint8 patches of all images and videos, row by row, or None; `pixel_values` scales them.
        scale: How the vision tower wants them scaled.
        grids: (n, 3) patches in time, height and width of each, or None; stays on the CPU, where sizes are read.
        grid_rows: For each grid the row that it belongs to.
        mel: (n, 128, F) log-mel of each sound, padded to the longest, or None.
        mel_lengths: (n,) frames of each sound; stays on the CPU.
        mel_rows: For each sound the row that it belongs to.
        indices: For each row its sample's index in the shards, also if it could not be read; -1 for padding.
        skipped: What could not be read while this batch was made: name -> reason.
        dropped: For each row that lost a sense to modality dropout, which one.
        epoch: Epoch that the batch belongs to.
        step: Its number in the epoch.
        consumed: How much of the epoch all ranks have consumed with it; see `avrt.data.loading.plans.Plan`.
    """

    def __init__(
        self,
        samples: list[Sample],
        prompt_ids: list[Tensor],
        prompt_positions: list[Tensor],
        completion_ids: list[Tensor],
        valid: Tensor,
        clips: list[Clip],
    ) -> None:
        self.samples = samples
        self.prompt_ids = prompt_ids
        self.prompt_positions = prompt_positions
        self.position_ends = [positions.max().item() + 1 for positions in prompt_positions]
        self.vision_places: list[Tensor] = []
        self.audio_places: list[Tensor] = []
        self.completion_ids = completion_ids
        self.valid = valid
        self.clips = clips
        self.pixels: Tensor | None = None
        self.scale: PixelScale | None = None
        self.grids: Tensor | None = None
        self.grid_rows: list[int] = []
        self.mel: Tensor | None = None
        self.mel_lengths: Tensor | None = None
        self.mel_rows: list[int] = []
        self.indices: list[int] = [-1] * len(samples)
        self.skipped: dict[str, str] = {}
        self.dropped: list[str] = []
        self.epoch = 0
        self.step = 0
        self.consumed = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.samples)

    @property
    def pixel_values(self) -> Tensor | None:
        """(patches, C) float32 vision tower input, equal to the processor's, or None."""
        return None if self.pixels is None or self.scale is None else self.scale.apply(self.pixels)

    def to(self, device: torch.device | str) -> OmniBatch:
        """The batch on a device, without waiting for it; what says how large the media are stays on the CPU."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if name in ON_HOST:
                continue
            if isinstance(value, Tensor):
                setattr(moved, name, to_device(value, torch.device(device)))
            elif isinstance(value, list) and value and isinstance(value[0], Tensor):
                setattr(moved, name, [to_device(tensor, torch.device(device)) for tensor in value])
        return moved


def collate(rows: Sequence[OmniBatch]) -> OmniBatch:
    """Join batches into one; sounds are padded to the longest."""
    joined = OmniBatch(
        samples=[s for row in rows for s in row.samples],
        prompt_ids=[t for row in rows for t in row.prompt_ids],
        prompt_positions=[t for row in rows for t in row.prompt_positions],
        completion_ids=[t for row in rows for t in row.completion_ids],
        valid=torch.cat([row.valid for row in rows]),
        clips=[clip for row in rows for clip in row.clips],
    )
    joined.vision_places = [t for row in rows for t in row.vision_places]
    joined.audio_places = [t for row in rows for t in row.audio_places]
    joined.indices = [index for row in rows for index in row.indices]
    joined.skipped = {name: why for row in rows for name, why in row.skipped.items()}
    joined.dropped = [sense for row in rows for sense in row.dropped]
    start = 0
    mels: list[Tensor] = []
    for row in rows:
        joined.grid_rows += [start + r for r in row.grid_rows]
        joined.mel_rows += [start + r for r in row.mel_rows]
        mels += [] if row.mel is None else list(row.mel)
        start += len(row)
    if joined.grid_rows:
        joined.pixels = torch.cat([row.pixels for row in rows if row.pixels is not None])
        joined.scale = next(row.scale for row in rows if row.scale is not None)
        joined.grids = torch.cat([row.grids for row in rows if row.grids is not None])
    if mels:
        longest = max(m.shape[-1] for m in mels)
        joined.mel = torch.stack([torch.nn.functional.pad(m, (0, longest - m.shape[-1])) for m in mels])
        joined.mel_lengths = torch.cat([row.mel_lengths for row in rows if row.mel_lengths is not None])
    return joined
