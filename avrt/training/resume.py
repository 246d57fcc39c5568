"""Going on with a run on another number of ranks: Lightning's count of an epoch's batches fitted to the new steps."""

from __future__ import annotations

from typing import Any

from avrt.data.plans import Plan


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
