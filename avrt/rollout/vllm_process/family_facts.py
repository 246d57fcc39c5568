"""What the trainer says of the model's family when it starts an engine, and how that gets to vLLM's workers.

It travels in `additional_config`, which vLLM hands to its workers before they make the model, and which tells its
compiled graphs apart: one that was compiled for whole positions is never run with fractions. Imports nothing of this
project.
"""

from __future__ import annotations

from typing import Any

KEY = "avrt"
EXTENSION = "extension.WorkerExtension"
"""Where vLLM's workers find what is mixed into them; imported there, as it prepares vLLM for the model."""


def with_extension(settings: dict[str, Any], family: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `vllm.LLM` with our extension and the family's facts among them.

    Raises:
        ValueError: If they name another extension.
    """
    if settings.get("worker_extension_cls"):
        raise ValueError("worker_extension_cls is needed for the prompts' positions: leave it out of the settings")
    config = {**settings.get("additional_config", {}), KEY: family}
    return settings | {"worker_extension_cls": EXTENSION, "additional_config": config}


def facts_of(vllm_config: Any) -> dict[str, Any]:
    """Those that were said, from vLLM's configuration.

    Raises:
        RuntimeError: If this vLLM does not hand them on.
    """
    config = getattr(vllm_config, "additional_config", None)
    if not isinstance(config, dict) or KEY not in config:
        raise RuntimeError("this vLLM does not hand additional_config to its workers; use 0.32")
    facts: dict[str, Any] = config[KEY]
    return facts
