"""Clips as the Qwen3-Omni processor gives them to the towers: patches of pictures, log-mel of sound, no more."""

from __future__ import annotations

import torch
from torch import Tensor

from avrt.data.media.clip import Clip
from avrt.models.qwen3_omni.positions import SpecialTokens, audio_token_count, expand_prompt
from avrt.models.qwen_omni.inputs import ClipLayout, QwenInputs


class Qwen3OmniInputs(QwenInputs):
    """Implements `avrt.data.inputs.media_inputs.MediaInputs`.

    Args:
        processor: The model's `Qwen3OmniMoeProcessor`, whose settings are followed.
        ids: The model's special tokens and clock.
    """

    ids: SpecialTokens

    def audio_token_count(self, mel_frames: int) -> int:
        """13 for each second."""
        return audio_token_count(mel_frames, self.ids.sound_chunk)

    def seconds_per_grid(self, clip: Clip) -> float:
        """Seconds of a step, by way of the frame rate as in the processor: the last bit decides what comes first."""
        return self.temporal / (1.0 / clip.seconds_per_frame) if clip.seconds_per_frame else float(self.temporal)

    def tokenize(self, prompt: str, layout: ClipLayout) -> tuple[Tensor, Tensor]:
        """Token ids (T,) and TMRoPE positions (3, T) of a prompt with its placeholders expanded."""
        return expand_prompt(self.tokenizer.encode(prompt, add_special_tokens=False), layout, self.ids)

    def log_mel(self, audio: Tensor) -> Tensor:
        """(128, F) float32 log-mel of (S,) sound at 16 kHz, one frame each whole 10 ms.

        The processor pads a sound by nothing but its own mirror image. What is shorter than a window's half is padded
        by silence, where the processor fails.
        """
        return self.spectrum(torch.nn.functional.pad(audio, (0, max(0, len(self._window) // 2 + 1 - len(audio)))))
