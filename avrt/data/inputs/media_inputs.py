"""What a model family does to a clip before the model sees it; each family implements these two protocols once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from avrt.data.inputs.batch import OmniBatch
from avrt.data.media.clip import Clip
from avrt.data.sample import Modality


class MediaLayout(Protocol):
    """What a family remembers of a clip until its placeholders are expanded."""

    @property
    def media(self) -> tuple[Modality, ...]:
        """What the clip is shown as; each entry becomes a placeholder, in this order."""

    @property
    def interleaved(self) -> bool:
        """Whether the sound lies within the video, without a placeholder of its own."""


class MediaInputs(Protocol):
    """Turns clips into tower inputs, and prompts with placeholders into tokens with positions; picklable for workers.

    Attributes:
        processor: The family's processor; its tokenizer and chat template are used.
        tokenizer: The processor's tokenizer.
        end_token_id: The token that ends an answer.
        interleaves: Whether sound can lie within a video.
        patch_factor: The sides of frames must be multiples of so many pixels.
        placeholders: Token ids that stand for pictures and videos in a prompt, and those that stand for sound.
    """

    processor: Any
    tokenizer: Any
    end_token_id: int
    interleaves: bool
    patch_factor: int
    placeholders: tuple[Sequence[int], Sequence[int]]

    def add(self, batch: OmniBatch, clip: Clip, *, audio_in_video: bool) -> Any:
        """Fill in the tower inputs of a batch of one row.

        Args:
            batch: A batch of one row.
            clip: Its media.
            audio_in_video: Interleave the sound of a video with its frames.

        Returns:
            The clip's `MediaLayout`, of the family's own type.
        """

    def tokenize(self, prompt: str, layout: Any) -> tuple[Tensor, Tensor]:
        """Tokens of a rendered chat, each placeholder expanded to its clip's tokens.

        Returns:
            Token ids (T,) and positions (3, T) of time, height and width.
        """
