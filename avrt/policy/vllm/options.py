"""Where vLLM's engines are, and how they are started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class VLLMOptions:
    """Where completions are sampled. Set `python` or `addresses`.

    Attributes:
        python: Python of an environment with vLLM; each rank starts an engine of its own beside itself, on its own GPU.
        addresses: `host:port` of engines that run elsewhere, started there by `vllm_process/worker.py`; rank r uses the
            r-th, so there must be as many as ranks.
        model: Folder or id of the student in the layout of the released checkpoints, as the engine sees it; None
            writes one out, which an engine beside the trainer can read. An engine elsewhere keeps its first one.
        settings: Further arguments of `vllm.LLM`, such as `{gpu_memory_utilization: 0.4, max_model_len: 4096}`.
        sleep: Let an engine on the same GPU give its memory back between rollouts (GPU only).
        start_seconds: How long it may take to start.
    """

    python: str | None = None
    addresses: list[str] = field(default_factory=list)
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sleep: bool = False
    start_seconds: float = 900.0
