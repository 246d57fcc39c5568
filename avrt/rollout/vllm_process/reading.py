"""What an engine multiplies by, read back: a linear layer's output for the identity.

vLLM joins projections (`qkv_proj`, `gate_up_proj`), and some of its backends keep weights in a form of their own and
drop the plain tensor. What a layer answers to the rows of the identity is what it holds in any of these cases, exactly:
each output is one weight, added to zeros. Runs in vLLM's own environment, and imports nothing of this project.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

JOINED = {
    **{name: ("qkv_proj", place) for place, name in enumerate(("q_proj", "k_proj", "v_proj"))},
    **{name: ("gate_up_proj", place) for place, name in enumerate(("gate_proj", "up_proj"))},
}
"""Projection -> the layer of vLLM that it is a part of, and which part."""
ROWS = 1024
"""Rows of the identity at a time."""


@torch.no_grad()
def held_weights(model: Any, names: Sequence[str], prefixes: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """(out, in) weights of some of the decoder's linear layers, by the names under which they were loaded.

    Args:
        model: vLLM's model.
        names: As in the released checkpoints: `thinker.model.layers.0.self_attn.q_proj.weight`.
        prefixes: What names begin with there, and with what in vLLM.

    Raises:
        ValueError: If there is no such layer, or it is spread over several GPUs.
    """
    return {name: _weight(model, name, prefixes) for name in names}


def _weight(model: Any, name: str, prefixes: Mapping[str, str]) -> torch.Tensor:
    released = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if released is None:
        raise ValueError(f"{name} begins with none of {', '.join(prefixes)}")
    path = prefixes[released] + name.removeprefix(released).removesuffix(".weight")
    parent, _, last = path.rpartition(".")
    joined, place = JOINED.get(last, (last, 0))
    try:
        layer, is_joined = model.get_submodule(f"{parent}.{joined}"), joined != last
    except AttributeError:
        layer, is_joined = model.get_submodule(path), False
    if getattr(layer, "tp_size", 1) != 1:
        raise ValueError(f"{name} is spread over {layer.tp_size} GPUs")
    if (method := getattr(layer, "quant_method", None)) is None:  # a plain layer
        plain: torch.Tensor = layer.weight.detach().cpu()
        return plain
    some = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    found = []
    for begin in range(0, layer.input_size, ROWS):
        count = min(ROWS, layer.input_size - begin)
        rows = torch.zeros(count, layer.input_size, dtype=some.dtype, device=some.device)
        rows[:, begin : begin + count].fill_diagonal_(1)
        found.append(method.apply(layer, rows))
    weight = torch.cat(found).T
    if is_joined:
        sizes = layer.output_sizes
        weight = weight[sum(sizes[:place]) : sum(sizes[: place + 1])]
    return weight.contiguous().cpu()
