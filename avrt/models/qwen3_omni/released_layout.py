"""How Qwen3-Omni is released, and what vLLM expects of it: the thinker inside the omni model, each expert by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor
from transformers import Qwen3OmniMoeConfig

from avrt.models.qwen_omni import layout

_GATE_AND_UP, _DOWN = ".experts.gate_up_proj", ".experts.down_proj"


def wrap_thinker(folder: Path) -> None:
    """Turn a thinker's folder into the layout of the whole omni model without its talker.

    Of the vision tower vLLM reads two fields more than transformers, which the released configurations have.
    """
    layout.wrap_thinker(folder, "Qwen3OmniMoeForConditionalGeneration", Qwen3OmniMoeConfig.model_type)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    vision = config["thinker_config"]["vision_config"]
    side = math.isqrt(vision["num_position_embeddings"]) * vision["patch_size"]
    config["thinker_config"]["vision_config"] = {"image_size": side, "apply_vit_abs_pos_embed": True, **vision}
    path.write_text(json.dumps(config, indent=2))


def tensors(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A parameter as the released checkpoints have it: experts are one tensor here, and many there.

    Args:
        name: Its name there, the experts' as that of one tensor.
        tensor: The parameter; experts have it as their first dimension. Parts of it are no copies.
    """
    if name.endswith(_GATE_AND_UP):
        experts = name.removesuffix("gate_up_proj")
        for number, expert in enumerate(tensor):
            gate, up = expert.chunk(2)
            yield f"{experts}{number}.gate_proj.weight", gate
            yield f"{experts}{number}.up_proj.weight", up
    elif name.endswith(_DOWN):
        experts = name.removesuffix("down_proj")
        for number, expert in enumerate(tensor):
            yield f"{experts}{number}.down_proj.weight", expert
    else:
        yield name, tensor
