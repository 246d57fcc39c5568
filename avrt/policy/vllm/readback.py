"""Read back: does an engine multiply by the weights that it was given?"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from avrt.errors import AvrtError
from avrt.policy.vllm.process import EngineGoneError, EngineProcess

IN_A_LAYER = re.compile(r".*\.\d+\.(.*\.weight)")
EXPERTS = ".experts."


class ReadBack:
    """A few of the weights on their way to an engine, to be compared with what it holds afterwards.

    They are the projections of the last decoder layer that has each, so that all others have come before. Not those of
    experts: what these answer is no linear function of what they are asked.
    """

    def __init__(self) -> None:
        self._given: dict[str, tuple[str, Tensor]] = {}

    def watch(
        self, weights: Iterable[tuple[str, Tensor]], prefixes: tuple[str, ...] = ("",)
    ) -> Iterator[tuple[str, Tensor]]:
        """Pass weights on, and keep the last of each kind.

        Args:
            weights: Names and tensors.
            prefixes: What the names of the decoder's begin with; adapted towers have such layers too.
        """
        for name, tensor in weights:
            read = tensor.ndim == 2 and name.startswith(prefixes) and EXPERTS not in name
            if read and (kind := IN_A_LAYER.fullmatch(name)):
                self._given[kind[1]] = name, tensor
            yield name, tensor

    def check(self, process: EngineProcess) -> float | None:
        """Read them from an engine that has loaded all.

        Returns:
            Their difference, 0; None where the engine cannot tell, which is said in a warning.

        Raises:
            AvrtError: If any differs at all.
            EngineGoneError: If it has ended.
        """
        given = dict(self._given.values())
        if not given:  # the engine ended before any came, and was given them as it was started again
            return None
        try:
            _, held = process.ask({"do": "read", "names": list(given)})
        except EngineGoneError:
            raise
        except AvrtError as error:
            warnings.warn(f"weights are not compared with those that were pushed: {error}", stacklevel=2)
            return None
        for name, tensor in given.items():
            pushed = tensor.detach().cpu().to(held[name].dtype)
            if not torch.equal(held[name], pushed):  # nor is what is not a number equal to anything
                apart = float((held[name] - pushed).abs().max())
                raise AvrtError(
                    f"multiplies by other weights than it was given: {name} differs by up to {apart:.1e}",
                    where="vLLM engine",
                    remedy="this version of vLLM does not take them up; sample without vllm",
                )
        return 0.0
