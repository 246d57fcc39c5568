"""What the Qwen-Omni families have in common before their models see a clip: patches, log-mel, and the clip's layout.

Patches stay uint8 until they are on the model's device, a quarter of what has to be moved there. All of it equals the
families' processors bit for bit (tests/data/test_preprocessor.py, tests/models/qwen3_omni/test_inputs.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch, PixelScale
from avrt.data.media.clip import Clip
from avrt.data.sample import Modality

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class MediaTokens:
    """The special tokens of one model, and its clock.

    Attributes:
        image: Placeholder of a picture token.
        video: Placeholder of a video token.
        audio: Placeholder of a sound token.
        audio_bos: Begins a sound.
        audio_eos: Ends a sound.
        positions_per_second: Temporal positions per second: one per sound token.
        merge_size: Side of the square of patches that becomes one token.
    """

    image: int
    video: int
    audio: int
    audio_bos: int
    audio_eos: int
    positions_per_second: int
    merge_size: int = 2

    @staticmethod
    def fields_of(config: Any) -> dict[str, int]:
        """These of a thinker configuration, by name."""
        return {
            "image": config.image_token_id,
            "video": config.video_token_id,
            "audio": config.audio_token_id,
            "audio_bos": config.audio_start_token_id,
            "audio_eos": config.audio_end_token_id,
            "positions_per_second": config.position_id_per_seconds,
            "merge_size": config.vision_config.spatial_merge_size,
        }


@dataclass(frozen=True)
class ClipLayout:
    """How many tokens a clip's media take.

    Attributes:
        video_grid: Patches of the video in time, height and width, or None.
        seconds_per_grid: Seconds that one step of the video's time axis stands for.
        image_grid: The same for a picture.
        audio_tokens: Number of sound tokens; 0 for none.
        audio_in_video: Interleave the sound into the video.
    """

    video_grid: tuple[int, int, int] | None = None
    seconds_per_grid: float = 1.0
    image_grid: tuple[int, int, int] | None = None
    audio_tokens: int = 0
    audio_in_video: bool = False

    @property
    def media(self) -> tuple[Modality, ...]:
        """What the clip is shown as."""
        present = {
            Modality.VIDEO: self.video_grid is not None,
            Modality.IMAGE: self.image_grid is not None,
            Modality.AUDIO: self.audio_tokens > 0,
        }
        return tuple(medium for medium, is_present in present.items() if is_present)

    @property
    def interleaved(self) -> bool:
        """Whether the sound lies within the video."""
        return self.audio_in_video and self.video_grid is not None and self.audio_tokens > 0


def is_interleaved(prompt: list[int], ids: MediaTokens) -> bool:
    """Whether a prompt's sound lies within its video: the sound's begin mark is followed by a video token."""
    begin = prompt.index(ids.audio_bos) if ids.audio_bos in prompt else -1
    return begin >= 0 and prompt[begin + 1] == ids.video


class QwenInputs(ABC):
    """Implements `avrt.data.inputs.media_inputs.MediaInputs` but for tokens and positions.

    Args:
        processor: The model's own, whose settings are followed.
        ids: The model's special tokens.
    """

    def __init__(self, processor: Any, ids: MediaTokens) -> None:
        video, sound = processor.video_processor, processor.feature_extractor
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end_token_id = int(processor.tokenizer.eos_token_id)
        self.interleaves = True
        self.ids = ids
        self.placeholders: tuple[Sequence[int], Sequence[int]] = ((ids.video, ids.image), (ids.audio,))
        # in float32, as the processor does it
        mean, std = (torch.tensor(v) * (1.0 / video.rescale_factor) for v in (video.image_mean, video.image_std))
        self.scale = PixelScale(tuple(mean.tolist()), tuple(std.tolist()))
        self.temporal = int(video.temporal_patch_size)
        self._patch, self._merge = int(video.patch_size), int(video.merge_size)
        self.patch_factor = self._patch * self._merge
        self._window = torch.hann_window(sound.n_fft)
        self._hop, self._padded = int(sound.hop_length), int(sound.n_samples)
        self._filters = torch.from_numpy(sound.mel_filters).float().T.contiguous()

    def add(self, batch: OmniBatch, clip: Clip, *, audio_in_video: bool) -> ClipLayout:
        """Fill in pixels, grids and mel of a batch of one row; where there are frames, a still picture is not shown."""
        grid = image_grid = None
        if clip.frames is not None:
            batch.pixels, grid = self.patches(clip.frames)  # frames of a shard have the model's size already
        elif clip.image is not None:
            batch.pixels, image_grid = self.patches(clip.image[None])
        if (shown := grid or image_grid) is not None:
            batch.grids, batch.grid_rows, batch.scale = torch.tensor([shown]), [0], self.scale
        if clip.audio is not None:
            batch.mel, batch.mel_rows = self.log_mel(clip.audio)[None], [0]
            batch.mel_lengths = torch.tensor([batch.mel.shape[-1]])
        return ClipLayout(
            video_grid=grid,
            seconds_per_grid=self.seconds_per_grid(clip),
            image_grid=image_grid,
            audio_tokens=0 if batch.mel is None else self.audio_token_count(batch.mel.shape[-1]),
            audio_in_video=audio_in_video,
        )

    def seconds_per_grid(self, clip: Clip) -> float:
        """Seconds that one step of a video's time axis stands for."""
        return self.temporal * (clip.seconds_per_frame or 1.0)

    @abstractmethod
    def audio_token_count(self, mel_frames: int) -> int:
        """Sound tokens that the audio tower makes of log-mel frames (10 ms each)."""

    @abstractmethod
    def tokenize(self, prompt: str, layout: ClipLayout) -> tuple[Tensor, Tensor]:
        """Token ids (T,) and positions (3, T) of a prompt with its placeholders expanded."""

    @abstractmethod
    def log_mel(self, audio: Tensor) -> Tensor:
        """(128, F) float32 log-mel of (S,) sound at 16 kHz, one frame each 10 ms, as the family's processor has it."""

    def patches(self, frames: Tensor) -> tuple[Tensor, Grid]:
        """Cut frames (F, 3, H, W) uint8 into what the vision tower reads, in its order.

        Returns:
            (n, 3 * T * P * P) uint8, and the grid: steps of T frames, rows and columns of P x P pixels. The last frame
            is repeated until the steps are whole.
        """
        if missing := -len(frames) % self.temporal:
            frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])
        steps, rows, columns = len(frames) // self.temporal, *(side // self._patch for side in frames.shape[-2:])
        m, p = self._merge, self._patch
        # a patch's rows are moved as wholes, which is three times as fast as pixel by pixel
        lines = np.ascontiguousarray(frames.numpy()).view(f"V{p}")
        cut = lines.reshape(steps, self.temporal, 3, rows // m, m, p, columns // m, m)
        ordered = np.ascontiguousarray(cut.transpose(0, 3, 6, 4, 7, 2, 1, 5)).view(np.uint8)
        return torch.from_numpy(ordered.reshape(steps * rows * columns, -1)), (steps, rows, columns)

    def spectrum(self, audio: Tensor) -> Tensor:
        """(128, F) float32 log-mel, F being S // 160, of (S,) sound with whatever silence belongs behind it.

        The loudest place sets the floor of the scale.
        """
        spectrum = torch.stft(audio, len(self._window), self._hop, window=self._window, return_complex=True)
        power = (spectrum[:, :-1].abs() ** 2).contiguous()
        log = (self._filters @ power).clamp_(min=1e-10).log10_()
        log = torch.maximum(log, log.max() - 8.0)
        return (log + 4.0) / 4.0
