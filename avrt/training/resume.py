"""Going on with a run on another number of ranks: optimizer states cut anew, and batches of the epoch counted anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from avrt.data.plans import Plan
from avrt.errors import AvrtError

_TAG, _UNIVERSAL = "checkpoint", "universal"


def made_by(checkpoint: Path) -> int | None:
    """How many processes cut a DeepSpeed checkpoint's optimizer states among them; None for another kind."""
    return len(list((checkpoint / _TAG).glob("*zero_pp_rank_*_optim_states.pt"))) or None


def make_universal(checkpoint: Path) -> None:
    """Add the form of a DeepSpeed checkpoint that any number of processes can load, unless it is there.

    Raises:
        AvrtError: If DeepSpeed cannot convert it.
    """
    if (checkpoint / "latest_universal").is_file():
        return
    rank_zero_info(f"{checkpoint} was made by {made_by(checkpoint)} processes: cutting its optimizer states anew")
    command = [
        sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state",
        "--input_folder", str(checkpoint / _TAG), "--output_folder", str(checkpoint / _UNIVERSAL),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise AvrtError(
            f"cannot be resumed by another number of processes: {reason}",
            where=checkpoint,
            remedy=f"go on with --trainer.devices {made_by(checkpoint)}",
        )


def recount_progress(checkpoint: dict[str, Any], plan: Plan) -> None:
    """Let Lightning count the batches of a half-finished epoch as if this run's steps had made them.

    The loader's state tells how many samples of the epoch are done, whatever made the steps. Lightning counts batches,
    and ends an epoch after as many as the loader has in all; so its count becomes what leaves exactly the steps that
    the remaining samples need. Without a change of ranks or batch size nothing changes.

    Args:
        checkpoint: What Lightning is about to restore from; changed in place.
        plan: The training order of this run.
    """
    loop = checkpoint.get("loops", {}).get("fit_loop", {})
    states = loop.get("state_dict", {}).get("combined_loader") or []
    progress = loop.get("epoch_loop.batch_progress", {}).get("current")
    if not states or progress is None or not states[0].get("position"):
        return
    left = plan.steps_left(states[0]["position"])
    done = plan.steps - left
    shift = done - progress["ready"] if left else 0
    for count in progress:
        progress[count] += shift
