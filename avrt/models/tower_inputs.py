"""What the towers read of each prompt's clip: kept where their output changes from step to step.

Where towers or projectors have adapters, features are of one moment, and some are needed with a gradient. Prompts then
carry these inputs instead, from batch to micro-batch and into checkpoints, and whoever scores or samples encodes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from avrt.data.inputs.batch import OmniBatch, PixelScale
from avrt.data.sample import Sample

_NOBODY = Sample(id="clip", question="-", choices=("-", "-"), answer=None)


@dataclass(frozen=True)
class TowerInputs:
    """The media of one row of a batch; the names are the batch's.

    Attributes:
        pixels: (patches, C) uint8, or None.
        scale: How they are scaled.
        grids: Patches in time, height and width of each picture or video.
        mel: (n, bins, F) log-mel of each sound, or None.
        mel_lengths: Frames of each sound.
    """

    pixels: Tensor | None
    scale: PixelScale | None
    grids: list[list[int]]
    mel: Tensor | None
    mel_lengths: list[int]

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> TowerInputs:
        """The inputs that `plain` has the attributes of, the scale's again as a dict."""
        scale = plain["scale"]
        return cls(**{**plain, "scale": None if scale is None else PixelScale(**scale)})


def inputs_of(batch: OmniBatch) -> list[TowerInputs]:
    """What the towers read of each row; tensors of the batch, not copies."""
    patches = [] if batch.grids is None else batch.grids.prod(-1).tolist()
    pieces = () if batch.pixels is None else torch.split(batch.pixels, patches)
    found = []
    for row in range(len(batch)):
        pictures = [i for i, owner in enumerate(batch.grid_rows) if owner == row]
        sounds = [i for i, owner in enumerate(batch.mel_rows) if owner == row]
        shown, heard = bool(pictures) and batch.grids is not None, bool(sounds) and batch.mel is not None
        found.append(
            TowerInputs(
                torch.cat([pieces[i] for i in pictures]) if shown else None,
                batch.scale if shown else None,
                [batch.grids[i].tolist() for i in pictures] if batch.grids is not None else [],
                batch.mel[sounds] if heard and batch.mel is not None else None,
                [int(batch.mel_lengths[i]) for i in sounds] if batch.mel_lengths is not None else [],
            )
        )
    return found


def media_batch(rows: Sequence[TowerInputs], device: torch.device) -> OmniBatch:
    """A batch of these media, and of nothing else, as `Family.encode_clips` takes it."""
    batch = OmniBatch([_NOBODY] * len(rows), [], [], [], torch.ones(len(rows), dtype=torch.bool, device=device), [])
    shown = [row for row in rows if row.pixels is not None]
    if shown:
        batch.pixels = torch.cat([row.pixels for row in shown if row.pixels is not None])
        batch.scale = shown[0].scale
        batch.grids = torch.tensor([grid for row in shown for grid in row.grids], device="cpu")
        batch.grid_rows = [i for i, row in enumerate(rows) for _ in row.grids]
    mels = [mel for row in rows if row.mel is not None for mel in row.mel]
    if mels:
        longest = max(mel.shape[-1] for mel in mels)
        batch.mel = torch.stack([pad(mel, (0, longest - mel.shape[-1])) for mel in mels])
        batch.mel_lengths = torch.tensor([n for row in rows for n in row.mel_lengths], device="cpu")
        batch.mel_rows = [i for i, row in enumerate(rows) for _ in row.mel_lengths]
    return batch
