"""A clip in the form that the model's processor gives: patches of its pictures, log-mel of its sound, and no more work.

Patches stay uint8 until they are on the model's device, a quarter of what has to be moved there; the sound is padded by
two windows instead of to 300 s. Both equal the processor's output bit for bit (tests/data/test_inputs.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5OmniProcessor

Grid = tuple[int, int, int]


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
        mean, std = (torch.tensor(v, device=patches.device)[None, :, None] for v in (self.mean, self.std))
        channels = patches.view(len(patches), len(self.mean), -1).float()
        return channels.sub_(mean).div_(std).view(len(patches), -1)


class Featurizer:
    """Makes the tower's inputs from decoded clips.

    Args:
        processor: The model's processor, whose settings are followed.
    """

    def __init__(self, processor: Qwen2_5OmniProcessor) -> None:
        video, sound = processor.video_processor, processor.feature_extractor
        # in float32, as the processor does it
        mean, std = (torch.tensor(v) * (1.0 / video.rescale_factor) for v in (video.image_mean, video.image_std))
        self.scale = PixelScale(tuple(mean.tolist()), tuple(std.tolist()))
        self.temporal = int(video.temporal_patch_size)
        self._patch, self._merge = int(video.patch_size), int(video.merge_size)
        self._window = torch.hann_window(sound.n_fft)
        self._hop, self._padded = int(sound.hop_length), int(sound.n_samples)
        self._filters = torch.from_numpy(sound.mel_filters).float().T.contiguous()

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
