"""Where vLLM's engines are, and how they are started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from avrt.errors import AvrtError


@dataclass(frozen=True)
class VLLMOptions:
    """Where completions are sampled. Set `python` or `addresses`.

    Attributes:
        python: Python of an environment with vLLM; each rank starts an engine of its own beside itself, on its own GPU.
        addresses: `host:port` of engines that run elsewhere, started there by `vllm_process/worker.py`; rank r uses the
            r-th. Of fewer than there are ranks, neighbours share one, and the first of them asks it for all.
        model: Folder or id of the student in the layout of the released checkpoints, as the engine sees it; None
            writes one out, once per machine, which an engine beside the trainer can read. An engine elsewhere keeps its
            first one.
        settings: Further arguments of `vllm.LLM`, such as `{gpu_memory_utilization: 0.4, max_model_len: 4096}`.
        sleep: Let an engine on the same GPU give its memory back between rollouts (GPU only).
        sleep_level: 1 keeps the engine's weights in the host's memory meanwhile; 2 throws them away, and has the model
            read again from its folder before the trained weights are pushed.
        start_seconds: How long it may take to start.
        reconnect_seconds: How long one at an address may be away before the run ends.
        transfer: How it gets the weights: `cuda_ipc` (on the same GPU), `shared_memory` (on the same machine) or
            `socket`; `auto` takes the first of these that works.
    """

    python: str | None = None
    addresses: list[str] = field(default_factory=list)
    model: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    sleep: bool = False
    sleep_level: Literal[1, 2] = 1
    start_seconds: float = 900.0
    reconnect_seconds: float = 600.0
    transfer: Literal["auto", "cuda_ipc", "shared_memory", "socket"] = "auto"

    def check_room(self, prompt: int, completion: int, where: str) -> None:
        """Refuse what vLLM would cut off without a word: prompt and completion beyond `max_model_len`, if it is set.

        Args:
            prompt: Tokens of the prompt.
            completion: Tokens of the longest completion.
            where: What they are of.

        Raises:
            AvrtError: If there is no room for both.
        """
        room = self.settings.get("max_model_len")
        if isinstance(room, int) and 0 < room < prompt + completion:
            raise AvrtError(
                f"a prompt of {prompt} and completions of up to {completion} tokens do not fit into vLLM's {room}",
                where=where,
                remedy="raise max_model_len in model.vllm.settings, or lower max_new_tokens",
            )
