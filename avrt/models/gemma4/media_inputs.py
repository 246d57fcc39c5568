"""Clips as the Gemma 4 processor gives them to the towers, and prompts with their blocks.

Patches stay uint8 until they are on the model's device. A video is written as a time stamp and a block for each frame,
sound as a block of its own. Positions are the tokens' numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch, PixelScale
from avrt.data.media.clip import SAMPLE_RATE, Clip
from avrt.data.sample import Modality

Grid = tuple[int, int, int]
END_OF_TURN = "<turn|>"


@dataclass(frozen=True)
class ClipLayout:
    """How a clip's media are written.

    Attributes:
        times: For each frame of the video its time in seconds; empty without a video.
        frame_tokens: Tokens of each frame.
        image_tokens: Tokens of a still picture; 0 for none.
        audio_tokens: Tokens of sound; 0 for none.
    """

    times: tuple[float, ...] = ()
    frame_tokens: int = 0
    image_tokens: int = 0
    audio_tokens: int = 0

    @property
    def media(self) -> tuple[Modality, ...]:
        """What the clip is shown as."""
        present = {
            Modality.VIDEO: bool(self.times),
            Modality.IMAGE: self.image_tokens > 0,
            Modality.AUDIO: self.audio_tokens > 0,
        }
        return tuple(medium for medium, is_present in present.items() if is_present)

    @property
    def interleaved(self) -> bool:
        """Sound never lies within a video."""
        return False


def audio_token_count(mel_frames: int) -> int:
    """Sound tokens that the audio tower makes of `mel_frames` log-mel frames (10 ms each): one for four."""
    return -(-mel_frames // 4)


def time_stamp(seconds: float) -> str:
    """Minutes and seconds, as the processor writes a frame's time."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


class GemmaInputs:
    """Implements `avrt.data.inputs.media_inputs.MediaInputs`.

    Args:
        processor: The model's `Gemma4Processor`, whose settings are followed.
    """

    def __init__(self, processor: Any) -> None:
        video = processor.video_processor
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.end_token_id = int(processor.tokenizer.convert_tokens_to_ids(END_OF_TURN))
        self.interleaves = False
        self.placeholders: tuple[Sequence[int], Sequence[int]] = (
            (processor.video_token_id, processor.image_token_id), (processor.audio_token_id,)
        )  # fmt: skip
        self.scale = PixelScale((0.0,), (1.0 / video.rescale_factor,))  # the tower shifts them by itself
        self._patch, self.pooling = int(video.patch_size), int(video.pooling_kernel_size)
        self.patch_factor = self._patch * self.pooling

    def add(self, batch: OmniBatch, clip: Clip, *, audio_in_video: bool) -> ClipLayout:
        """Fill in pixels, grids and mel of a batch of one row; where there are frames, a still picture is not shown.

        Raises:
            ValueError: If sound is to lie within a video.
        """
        if audio_in_video:
            raise ValueError("Gemma 4 has no place for sound within a video")
        times: tuple[float, ...] = ()
        tokens = 0
        pictures = clip.pictures  # they have the model's size already
        if pictures is not None:
            batch.pixels, grid = self.patches(pictures)
            batch.grids, batch.grid_rows, batch.scale = torch.tensor([grid]), [0], self.scale
            tokens = grid[1] * grid[2] // self.pooling**2
            times = frame_times(clip)
        if clip.audio is not None:
            batch.mel, batch.mel_rows = self.log_mel(clip.audio)[None], [0]
            batch.mel_lengths = torch.tensor([batch.mel.shape[-1]])
        return ClipLayout(
            times=times,
            frame_tokens=tokens if times else 0,
            image_tokens=0 if times else tokens,
            audio_tokens=0 if batch.mel is None else audio_token_count(batch.mel.shape[-1]),
        )

    def tokenize(self, prompt: str, layout: ClipLayout) -> tuple[Tensor, Tensor]:
        """Token ids (T,) and positions (3, T), all three the tokens' numbers, of a prompt with its blocks written out.

        Raises:
            ValueError: If the prompt has a placeholder that the clip cannot fill.
        """
        ids = self.tokenizer.encode(self.write_blocks(prompt, layout), add_special_tokens=False)
        return torch.tensor(ids), torch.arange(len(ids)).expand(3, -1)

    def write_blocks(self, prompt: str, layout: ClipLayout) -> str:
        """The text with each placeholder replaced by its medium's blocks."""
        names = self.processor
        begin, end = names.boi_token, names.eoi_token
        frame = f"{begin}{names.video_token * layout.frame_tokens}{end}"
        blocks = {
            names.video_token: " ".join(f"{time_stamp(seconds)} {frame}" for seconds in layout.times),
            names.image_token: f"{begin}{names.image_token * layout.image_tokens}{end}" if layout.image_tokens else "",
            names.audio_token: f"{names.boa_token}{names.audio_token * layout.audio_tokens}{names.eoa_token}"
            if layout.audio_tokens
            else "",
        }
        for placeholder, block in blocks.items():
            if placeholder in prompt:
                if not block or prompt.count(placeholder) > 1:
                    raise ValueError(f"the prompt has a media placeholder {placeholder} that the clip has nothing for")
                prompt = prompt.replace(placeholder, block)
        return prompt

    def patches(self, frames: Tensor) -> tuple[Tensor, Grid]:
        """Cut frames (F, 3, H, W) uint8 into what the vision tower reads, in its order.

        Returns:
            (n, P * P * 3) uint8, and the grid: frames, rows and columns of P x P pixels.

        Raises:
            ValueError: If the sides are no multiples of a token's.
        """
        if any(side % self.patch_factor for side in frames.shape[-2:]):
            height, width = frames.shape[-2:]
            raise ValueError(f"pictures of {width}x{height}: sides have to be multiples of {self.patch_factor} pixels")
        p = self._patch
        count, rows, columns = len(frames), *(side // p for side in frames.shape[-2:])
        cut = np.ascontiguousarray(frames.numpy()).reshape(count, 3, rows, p, columns, p)
        ordered = np.ascontiguousarray(cut.transpose(0, 2, 4, 3, 5, 1))
        return torch.from_numpy(ordered.reshape(count * rows * columns, -1)), (count, rows, columns)

    def log_mel(self, audio: Tensor) -> Tensor:
        """(bands, F) float32 log-mel of (S,) sound at 16 kHz, one frame each 10 ms, by the model's own extractor.

        Frames whose window is not all sound are left out, as the processor masks them. It cuts sound at 30 s: what
        lies behind is not heard.
        """
        made = self.processor.feature_extractor([audio.numpy()], sampling_rate=SAMPLE_RATE, return_tensors="np")
        heard = made["input_features"][0][made["input_features_mask"][0]]
        return torch.from_numpy(np.ascontiguousarray(heard.T))


def frame_times(clip: Clip) -> tuple[float, ...]:
    """Seconds of each frame of a clip's video; empty without one."""
    if clip.frames is None:
        return ()
    if len(clip.timestamps) == len(clip.frames):
        return clip.timestamps
    return tuple(i * (clip.seconds_per_frame or 1.0) for i in range(len(clip.frames)))
