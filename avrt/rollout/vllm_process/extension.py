"""What vLLM's workers can do in addition, in whichever processes they run: mixed into them by `worker_extension_cls`.

Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

from typing import Any

# the files beside this one
from interleaving import order_features  # type: ignore[import-not-found]
from positions import HandedPositions  # type: ignore[import-not-found]


class WorkerExtension:
    """Methods that `LLM.collective_rpc` calls on all workers by name."""

    model_runner: Any
    _handed: HandedPositions

    def follow_trainer(self) -> list[str]:
        """From now on compute as the trainer does: with the positions that requests bring, and their features in order.

        Returns:
            What of the latter this version of vLLM has no place for.

        Raises:
            RuntimeError: If this model or this version of vLLM has no place for the positions.
        """
        lacking: list[str] = order_features()
        self._handed = HandedPositions(self.model_runner)
        return lacking

    def positions_used(self) -> dict[str, Any]:
        """See `HandedPositions.used`."""
        used: dict[str, Any] = self._handed.used()
        return used


def with_extension(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `vllm.LLM` with this extension among them.

    Raises:
        ValueError: If they name another one.
    """
    if settings.get("worker_extension_cls"):
        raise ValueError("worker_extension_cls is needed for the prompts' positions: leave it out of the settings")
    return settings | {"worker_extension_cls": f"extension.{WorkerExtension.__name__}"}
