"""Frozen layers in 4 bits beneath adapters (QLoRA, arXiv 2305.14314), by bitsandbytes.

A weight is one of 16 values of the type NF4, times its block's largest magnitude: half a byte, and 4 bytes for each
block of 64. A layer multiplies by these products in the type of its input, so that it is the plain layer of the rounded
weights, with a gradient for its input.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from typing import Any

from torch import Tensor, nn

from avrt.errors import AvrtError

BLOCK = 64
"""Weights that share a scale."""
BYTES = 0.5 + 4 / BLOCK
"""Bytes of one weight."""
WHERE = "model.student.quantize"


def is_quantized(layer: nn.Module) -> bool:
    """Whether a linear layer's weight has 4 bits."""
    return hasattr(layer, "dequantized")


def quantize_layers(model: nn.Module, targets: str) -> None:
    """Put 4-bit layers in the place of linear ones, one after the other.

    Args:
        model: The model, changed in place.
        targets: Pattern of the layers' names.

    Raises:
        AvrtError: If bitsandbytes is not installed, or a layer's width is no multiple of a block.
    """
    make = _layer_class()
    for name, layer in list(model.named_modules()):
        if not (isinstance(layer, nn.Linear) and re.fullmatch(targets, name)):
            continue
        if layer.in_features % BLOCK:
            # bitsandbytes 0.50 reads such a weight wrongly on a CPU: there a block ends with its row.
            raise AvrtError(
                f"{name} is {layer.in_features} wide, which is no multiple of {BLOCK}",
                where=WHERE,
                remedy="leave it out for this student",
            )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make.of(layer))


def quiet() -> None:
    """Keep bitsandbytes, which peft imports too, from saying on a CPU that it lacks a kernel that is not used here."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@cache
def _layer_class() -> Any:
    """The layer; its class is made late because bitsandbytes is an extra, and its import takes a second."""
    quiet()
    try:
        import bitsandbytes
    except ImportError:
        raise AvrtError(
            "4-bit weights need the package bitsandbytes", where=WHERE, remedy="pip install 'avrt[qlora]'"
        ) from None

    class FourBitLinear(bitsandbytes.nn.Linear4bit):  # type: ignore[misc]  # of a package without types
        """A frozen linear layer in NF4."""

        @classmethod
        def of(cls, layer: nn.Linear) -> FourBitLinear:
            """A 4-bit copy of a layer, on its device."""
            settings: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
            weight = layer.weight.detach()
            made = cls(
                layer.in_features, layer.out_features, bias=False, device="meta", compute_dtype=weight.dtype, **settings
            )
            parameter = bitsandbytes.nn.Params4bit(
                weight, requires_grad=False, blocksize=BLOCK, module=made, **settings
            )
            made.weight = parameter.to(weight.device)
            made.bias = layer.bias
            return made

        def forward(self, x: Tensor) -> Tensor:
            """(..., in) -> (..., out).

            Not as the base class does: on a CPU with instructions for bfloat16 that computes in bfloat16 in evaluation
            mode, whatever the input's type, so that rollouts would be another policy's than training.
            """
            output: Tensor = bitsandbytes.matmul_4bit(x, self.weight, quant_state=self._state(), bias=self.bias)
            return output

        def dequantized(self) -> Tensor:
            """(out, in) the weight that the layer multiplies by, in the type in which it computes."""
            weight: Tensor = bitsandbytes.functional.dequantize_4bit(self.weight.data, self._state())
            return weight

        def _state(self) -> Any:
            """Scales and shape; a parameter that was made anew on another device has lost them."""
            found = getattr(self.weight, "quant_state", None)
            found = self.quant_state if found is None else found
            if found.absmax.device != self.weight.device:
                found.to(self.weight.device)
            return found

        def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
            """Nothing: 4-bit weights are made from the student's source each time, and checkpoints lack what is frozen.

            The base class would add the scales, which are no parameters that could be left out by that.
            """

    return FourBitLinear
