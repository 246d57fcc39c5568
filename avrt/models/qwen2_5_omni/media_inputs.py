"""Clips as the Qwen2.5-Omni processor gives them to the towers: patches of pictures, log-mel of sound, no more.

Patches stay uint8 until they are on the model's device, a quarter of what has to be moved there; the sound is padded by
two windows instead of to 300 s. Both equal the processor's output bit for bit (tests/data/test_preprocessor.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avrt.data.inputs.batch import OmniBatch, PixelScale
from avrt.data.media.clip import Clip
from avrt.models.qwen2_5_omni.positions import ClipLayout, SpecialTokens, audio_token_count, expand_prompt

Grid = tuple[int, int, int]


class QwenOmniInputs:
    """Implements `avrt.data.inputs.media_inputs.MediaInputs`.

    Args:
        processor: The model's `Qwen2_5OmniProcessor`, whose settings are followed.
        ids: The model's special tokens and clock.
    """

    def __init__(self, processor: Any, ids: SpecialTokens) -> None:
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
            seconds_per_grid=self.temporal * (clip.seconds_per_frame or 1.0),
            image_grid=image_grid,
            audio_tokens=0 if batch.mel is None else audio_token_count(batch.mel.shape[-1]),
            audio_in_video=audio_in_video,
        )

    def tokenize(self, prompt: str, layout: ClipLayout) -> tuple[Tensor, Tensor]:
        """Token ids (T,) and TMRoPE positions (3, T) of a prompt with its placeholders expanded."""
        return expand_prompt(self.tokenizer.encode(prompt, add_special_tokens=False), layout, self.ids)

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

    def log_mel(self, audio: Tensor) -> Tensor:
        """(128, F) float32 log-mel of (S,) sound at 16 kHz, one frame each 10 ms.

        The loudest place sets the floor of the scale, as in the processor, where all the padding is silence. Sound that
        is longer than what the processor pads to is not cut; it equals the processor's with its truncation off.
        """
        # two windows of silence behind the sound: the last frames see what they would see in 300 s of padding
        silence = min(3 * self._hop, max(0, self._padded - len(audio)))
        padded = torch.nn.functional.pad(audio, (0, silence))
        spectrum = torch.stft(padded, len(self._window), self._hop, window=self._window, return_complex=True)
        power = (spectrum[:, :-1].abs() ** 2).contiguous()
        log = (self._filters @ power).clamp_(min=1e-10).log10_()
        log = torch.maximum(log, log.max() - 8.0)
        return ((log + 4.0) / 4.0)[:, : -(-len(audio) // self._hop)]
