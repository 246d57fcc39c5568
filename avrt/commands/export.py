"""`avrt export --ckpt_path CKPT --out DIR`: a training checkpoint as a Hugging Face folder."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Literal

from avrt.arguments import OneLineErrors
from avrt.messages import print_results
from avrt.run_folder import find_checkpoint


def main(arguments: list[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows `avrt export`.
    """
    parser = OneLineErrors(prog="avrt export", description=__doc__)
    parser.add_argument(
        "--ckpt_path",
        type=str,
        required=True,
        help="a checkpoint, e.g. step-000100.ckpt; a run's folder: its newest; last: of the newest run below runs/",
    )
    parser.add_argument("--out", type=str, required=True, help="new folder or address for the model")
    parser.add_argument(
        "--layout",
        type=Literal["thinker", "full", "adapters"],
        default="thinker",
        help="the thinker alone; the layout of the released omni checkpoints (for vLLM); or adapters alone (for peft)",
    )
    parser.add_argument(
        "--dtype",
        type=Literal["float32", "bfloat16", "float16"] | None,
        default=None,
        help="round the weights to this type",
    )
    parser.add_argument("--source", type=str | None, default=None, help="the student's source, if it has moved")
    options = parser.parse_args(arguments)
    checkpoint = Path(str(find_checkpoint(options.ckpt_path, None, "export")))
    print(f"checkpoint: {checkpoint}", flush=True)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

    import torch
    import transformers

    from avrt.evaluation.model_card import write_card
    from avrt.policy.input_settings import SETTINGS
    from avrt.policy.saving import export_adapters, export_policy
    from avrt.remote.uploads import folder_for
    from avrt.training.input_record import settings_of_checkpoint
    from avrt.training.trained_policy import policy_from_checkpoint

    transformers.utils.logging.disable_progress_bar()
    policy = policy_from_checkpoint(checkpoint, options.source)
    settings = settings_of_checkpoint(checkpoint)
    if options.layout == "adapters":
        with folder_for(options.out, "adapter_config.json") as folder:
            export_adapters(policy, folder, settings=settings)
        print_results("adapters", options.out)
        return
    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    with folder_for(options.out, "config.json") as folder:
        export_policy(policy, folder, settings=settings, full_layout=options.layout == "full", dtype=dtype)
        write_card(folder, settings)
    if settings is None:
        print(f"{checkpoint} is of an earlier avrt and does not say how its student is asked: {SETTINGS} is left out")
    print_results(
        "model", options.out, f'avrt ask {shlex.quote(options.out)} clip.mp4 "What makes the sound?" "a dog" "a door"'
    )
