"""Clips as the Qwen2.5-Omni processor gives them to the towers: patches of pictures, log-mel of sound, no more.

The sound is padded by two windows instead of to 300 s, which gives the same numbers (tests/data/test_preprocessor.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from avrt.models.qwen2_5_omni.positions import SpecialTokens, audio_token_count, expand_prompt
from avrt.models.qwen_omni.inputs import ClipLayout, QwenInputs


class QwenOmniInputs(QwenInputs):
    """Implements `avrt.data.inputs.media_inputs.MediaInputs`.

    Args:
        processor: The model's `Qwen2_5OmniProcessor`, whose settings are followed.
        ids: The model's special tokens and clock.
    """

    ids: SpecialTokens

    def audio_token_count(self, mel_frames: int) -> int:
        """Two frames of the tower's convolutions for each."""
        return audio_token_count(mel_frames)

    def tokenize(self, prompt: str, layout: ClipLayout) -> tuple[Tensor, Tensor]:
        """Token ids (T,) and TMRoPE positions (3, T) of a prompt with its placeholders expanded."""
        return expand_prompt(self.tokenizer.encode(prompt, add_special_tokens=False), layout, self.ids)

    def log_mel(self, audio: Tensor) -> Tensor:
        """(128, F) float32 log-mel of (S,) sound at 16 kHz, one frame each 10 ms.

        The loudest place sets the floor of the scale, as in the processor, where all the padding is silence. Sound that
        is longer than what the processor pads to is not cut; it equals the processor's with its truncation off.
        """
        # two windows of silence behind the sound: the last frames see what they would see in 300 s of padding
        silence = min(3 * self._hop, max(0, self._padded - len(audio)))
        return self.spectrum(torch.nn.functional.pad(audio, (0, silence)))[:, : -(-len(audio) // self._hop)]
