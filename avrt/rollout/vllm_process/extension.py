"""What vLLM's workers can do in addition, in whichever processes they run: mixed into them by `worker_extension_cls`.

vLLM imports it in each worker's process before the model is made; what has to be put right by then is done as this is
imported. Runs in the engine's own Python environment, so it imports nothing of this project.
"""

from __future__ import annotations

from typing import Any

# the files beside this one
from cpu_kernels import mend_cpu_kernels  # type: ignore[import-not-found]
from family_facts import facts_of  # type: ignore[import-not-found]
from fractional import compute_fractions  # type: ignore[import-not-found]
from interleaving import order_features  # type: ignore[import-not-found]
from positions import HandedPositions  # type: ignore[import-not-found]
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class WorkerExtension:
    """Methods that `LLM.collective_rpc` calls on all workers by name."""

    model_runner: Any
    _handed: HandedPositions

    def follow_trainer(self) -> list[str]:
        """From now on compute as the trainer does: with the positions that requests bring, and their features in order.

        Returns:
            What this version of vLLM has no place for, beside the positions.

        Raises:
            RuntimeError: If this model or this version of vLLM has no place for the positions.
        """
        facts = facts_of(self.model_runner.vllm_config)
        lacking: list[str] = [*LACKING]
        if facts["interleaves"]:
            lacking += order_features(self.model_runner.get_model())
        self._handed = HandedPositions(self.model_runner, facts["positions"])
        return lacking

    def positions_used(self) -> dict[str, Any]:
        """See `HandedPositions.used`."""
        used: dict[str, Any] = self._handed.used()
        return used


def _prepare(runner_class: Any) -> None:
    """Have a class of vLLM's model runners prepare for fractions of positions before it loads a model that has some."""
    load = vars(runner_class)["load_model"]

    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        if facts_of(self.vllm_config)["positions"] == "fractional":
            compute_fractions(self)
        return load(self, *args, **kwargs)

    runner_class.load_model = load_model


LACKING: list[str] = mend_cpu_kernels()
for _class in (GPUModelRunner, CPUModelRunner):
    _prepare(_class)
