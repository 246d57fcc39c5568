"""How Qwen2.5-Omni is released, and what vLLM expects of it: the thinker inside the omni model, without its talker."""

from __future__ import annotations

from pathlib import Path

from transformers import Qwen2_5OmniConfig

from avrt.models import qwen_layout


def wrap_thinker(folder: Path) -> None:
    """Turn a thinker's folder into the layout of the whole omni model without its talker."""
    qwen_layout.wrap_thinker(folder, "Qwen2_5OmniModel", Qwen2_5OmniConfig.model_type)
