"""The dimensions of the released Gemma 4 models with sound: what memory and time depend on, known without a download.

From config.json of google/gemma-4-E2B-it and -E4B-it, as several public programs that load them repeat it.
"""

from __future__ import annotations

from typing import Any

from transformers import Gemma4Config

from avrt.models.transformers_internals import FULL, SLIDING

RELEASED_SIZES: dict[str, dict[str, Any]] = {
    "E2B": {"hidden_size": 1536, "intermediate_size": 6144, "use_double_wide_mlp": True, "num_hidden_layers": 35,
            "num_kv_shared_layers": 20, "num_attention_heads": 8, "num_key_value_heads": 1},
    "E4B": {"hidden_size": 2560, "intermediate_size": 10240, "use_double_wide_mlp": False, "num_hidden_layers": 42,
            "num_kv_shared_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 2},
}  # fmt: skip
"""The text models; the towers are the same."""
_FULL_EVERY = {"E2B": 5, "E4B": 6}
"""The last of so many layers sees everything."""


def released_config(size: str) -> Gemma4Config:
    """The configuration at a released size, `E2B` or `E4B`."""
    text, every = RELEASED_SIZES[size], _FULL_EVERY[size]
    kinds = [SLIDING if (i + 1) % every else FULL for i in range(text["num_hidden_layers"])]
    return Gemma4Config(
        text_config={
            **text,
            "vocab_size": 262_144,
            "vocab_size_per_layer_input": 262_144,
            "hidden_size_per_layer_input": 256,
            "layer_types": kinds,
            "sliding_window": 512,
            "head_dim": 256,
            "global_head_dim": 512,
            "max_position_embeddings": 131_072,
            "final_logit_softcapping": 30.0,
        },
        vision_config={"use_clipped_linears": True},
        audio_config={},
    )
