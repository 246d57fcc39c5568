"""Selecting samples so that runs can be compared: those that other runs kept, or as many as another run has."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, or_, select, update

from avrt.errors import AvrtError
from avrt.text import clean, json_lines
from avrt.traces.database import writing
from avrt.traces.schema import outcomes
from avrt.traces.trace_export import TRACES, read_traces, split_of
from avrt.traces.trace_folder import TraceFolder

NOT_ASKED_FOR = "filter: not among the samples asked for (only)"
NOT_DRAWN = "filter: not among the traces drawn (as_many_as)"


def selected_ids(only: Sequence[str], out: Path) -> frozenset[str] | None:
    """The ids that all sources have in common; None without sources.

    Args:
        only: Trace folders, for their kept samples, or files with an id on each line or JSON lines with `id`.
        out: The run's `out`, in which trace folders are looked up first.

    Raises:
        AvrtError: If a source cannot be read.
    """
    found: frozenset[str] | None = None
    for name in only:
        path = _find(name, out)
        if path is None and Path(name).is_file():
            ids = _ids_in(Path(name))
        else:
            ids = frozenset(record["id"] for record in _traces(name, out, "only"))
        found = ids if found is None else found & ids
    return found


def count_by_split(name: str, out: Path, own: Path, where: str) -> Counter[str]:
    """How many traces another trace folder has in each split.

    Args:
        name: The folder, inside the run's `out` or by path; `.` is `out` itself.
        out: The run's `out`.
        own: The run's own folder, which is refused.
        where: The option's name, for the error.

    Raises:
        AvrtError: If there is no such folder, or it is the run's own.
    """
    path = _find(name, out)
    if path is not None and path.resolve() == own.resolve():
        raise AvrtError(f"{name} is the run's own folder", where=where, remedy="give this run a --name")
    return Counter(record["split"] for record in _traces(name, out, where))


def draw_traces(folder: TraceFolder, run: str, wanted: Counter[str], seed: int, val_share: float) -> dict[str, int]:
    """Keep a random sample of a run's traces, the same one for the same seed, and drop the others.

    Args:
        folder: The run's trace folder.
        run: The run's name.
        wanted: How many traces to keep in each split.
        seed: The seed.
        val_share: The run's `val_share`.

    Returns:
        For each split with fewer traces than wanted, how many are missing.
    """
    missing = {}
    with writing(folder.store) as db:
        # includes the traces that an earlier draw dropped, so that drawing twice changes nothing
        of_run = (outcomes.c.folder == folder.name, outcomes.c.run == run)
        drawn_from = or_(outcomes.c.status == "kept", outcomes.c.reason == NOT_DRAWN)
        pool = db.execute(select(outcomes.c.sample, outcomes.c.clip).where(*of_run, drawn_from)).all()
        drawn: dict[str, tuple[str, str | None]] = {}
        for split, number in wanted.items():
            ids = [sample for sample, clip in pool if split_of(clip, val_share) == split]
            ids.sort(key=lambda name: hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest())
            if len(ids) < number:
                missing[split] = number - len(ids)
            for i, name in enumerate(ids):
                drawn[name] = ("kept", None) if i < number else ("dropped", NOT_DRAWN)
        one = (outcomes.c.folder == folder.name, outcomes.c.sample == bindparam("of_sample"))
        # in their order, as workers that still record take theirs, so that none waits for another in a circle
        in_order = [(name, *drawn[name]) for name in sorted(drawn)]
        changes = [{"of_sample": name, "status": status, "reason": reason} for name, status, reason in in_order]
        if changes:
            db.execute(update(outcomes).where(*one), changes)
    return missing


def _find(name: str, out: Path) -> Path | None:
    """The trace folder of that name, inside `out` or by path; None if there is none."""
    return next((path for path in (out / name, Path(name)) if (path / TRACES).is_file()), None)


def _traces(name: str, out: Path, where: str) -> list[dict[str, Any]]:
    path = _find(name, out)
    if path is None:
        what = f"{name} is not a folder with exported traces"
        raise AvrtError(what, where=where, remedy="finish that run first, with export")
    return read_traces(path) or []


def _ids_in(path: Path) -> frozenset[str]:
    """The ids in a file: one on each line, or JSON lines with `id`."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if not text.lstrip().startswith(("{", '"')):
            return frozenset(clean(line.strip()) for line in text.split("\n") if line.strip())
        records = [record for _, record in json_lines(text)]
        return frozenset(clean(str(r["id"] if isinstance(r, dict) else r)) for r in records)
    except (ValueError, KeyError) as error:
        remedy = "write an id on each line, or JSON lines with id"
        raise AvrtError(f"is not a list of ids: {error}", where=path, remedy=remedy) from None
