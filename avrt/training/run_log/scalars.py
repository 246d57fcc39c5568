"""The curves of a training run, read back from its TensorBoard log."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from avrt.errors import AvrtError

Points = list[tuple[int, float]]


def read_scalars(folder: Path, tags: Collection[str]) -> dict[str, Points]:
    """Some scalars of a run: tag -> (optimizer step, value) in order; those that it did not log are left out.

    Args:
        folder: The run's folder; its logs may be anywhere below. Of a step that several have, as after a resume, the
            newest counts.
        tags: Names as in docs/logging.md.

    Raises:
        AvrtError: If there is no log.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs = sorted(folder.rglob("events.out.tfevents.*"), key=lambda log: log.stat().st_mtime)
    if not logs:
        raise AvrtError("no TensorBoard log", where=folder, remedy="name a training run's folder")
    found: dict[str, dict[int, float]] = {}
    for log in dict.fromkeys(log.parent for log in logs):
        events = EventAccumulator(str(log), size_guidance={"scalars": 0, "histograms": 1, "images": 1})
        events.Reload()
        known = events.Tags()["scalars"]
        for tag in tags:
            if tag in known:
                found.setdefault(tag, {}).update((e.step, e.value) for e in events.Scalars(tag))
    return {tag: sorted(values.items()) for tag, values in found.items()}
