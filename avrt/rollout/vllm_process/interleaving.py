"""Has vLLM 0.32 give a video with sound its features in order, also where a prompt is computed in pieces.

vLLM sorts features by kind only where picture and sound alternate within what one forward pass computes. The rest of a
video whose beginning is cached or was computed before can be sound, then picture; it gets the picture's features first.

Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

FEATURES = "check_interleaved_audio_video"
"""What is replaced, by its name in the module of vLLM's model."""


def order_features(model: Any) -> list[str]:
    """In a process that runs a model, always sort features by kind.

    Returns:
        What this vLLM has not.
    """
    module = sys.modules[type(model).__module__]
    if not hasattr(module, FEATURES):
        return [f"{module.__name__}.{FEATURES}"]
    setattr(module, FEATURES, _has_both)
    return []


def _has_both(is_video: torch.Tensor, is_audio: torch.Tensor, num_video: int, num_audio: int) -> bool:
    return num_video > 0 and num_audio > 0
