"""Runs that are compared on equal terms: on the samples that others kept, or on as many traces as another has."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.text import clean, json_lines
from avrt.traces.folders import TraceFolder
from avrt.traces.store import connect
from avrt.traces.to_shards import TRACES, read_traces, split_of

NOT_ASKED_FOR = "filter: not among the samples asked for (only)"
NOT_DRAWN = "filter: not among the traces drawn (as_many_as)"


def wanted_ids(only: Sequence[str], out: Path) -> frozenset[str] | None:
    """The ids that every one of several sources names; None without any.

    Args:
        only: Trace folders, of which the kept samples count, or files: an id on each line, or JSON lines with `id`.
        out: Where names of trace folders are looked for first.

    Raises:
        AvrtError: If one of them cannot be read.
    """
    found: frozenset[str] | None = None
    for name in only:
        path = _place(name, out)
        if path is None and Path(name).is_file():
            ids = _listed(Path(name))
        else:
            ids = frozenset(record["id"] for record in _traces(name, out, "only"))
        found = ids if found is None else found & ids
    return found


def counts_of(name: str, out: Path, own: Path, where: str) -> Counter[str]:
    """How many traces another trace folder has in each split.

    Args:
        name: The folder, below the run's `out` or by path; `.` is `out` itself.
        out: The run's `out`.
        own: The run's own folder, which cannot be meant.
        where: The option's name.

    Raises:
        AvrtError: If there is none.
    """
    path = _place(name, out)
    if path is not None and path.resolve() == own.resolve():
        raise AvrtError(
            f"{name} is the run's own folder", where=where, remedy="give this run a name: --name unfiltered"
        )
    return Counter(record["split"] for record in _traces(name, out, where))


def draw(folder: TraceFolder, run: str, wanted: Counter[str], seed: int, val_share: float) -> dict[str, int]:
    """Keep a random choice of a run's traces: so many in each split, the same ones for the same seed.

    Args:
        folder: The run's.
        run: Its name.
        wanted: Number of traces in each split.
        seed: Decides the choice.
        val_share: As the run's.

    Returns:
        How many traces are missing in each split, where there are fewer than wanted.
    """
    missing = {}
    with closing(connect(folder.store)) as db:
        db.execute("BEGIN IMMEDIATE")
        # Those that an earlier draw left out are drawn from again, so that drawing twice changes nothing.
        query = "SELECT sample, clip FROM outcomes WHERE folder = ? AND run = ? AND (status = 'kept' OR reason = ?)"
        pool = db.execute(query, (folder.name, run, NOT_DRAWN)).fetchall()
        for split, number in wanted.items():
            ids = [row["sample"] for row in pool if split_of(row["clip"], val_share) == split]
            ids.sort(key=lambda name: hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest())
            if len(ids) < number:
                missing[split] = number - len(ids)
            for names, status, reason in ((ids[:number], "kept", None), (ids[number:], "dropped", NOT_DRAWN)):
                db.executemany(
                    "UPDATE outcomes SET status = ?, reason = ? WHERE folder = ? AND sample = ?",
                    [(status, reason, folder.name, name) for name in names],
                )
        db.execute("COMMIT")
    return missing


def _place(name: str, out: Path) -> Path | None:
    """The trace folder of that name, below `out` or by its own path."""
    return next((path for path in (out / name, Path(name)) if (path / TRACES).is_file()), None)


def _traces(name: str, out: Path, where: str) -> list[dict[str, Any]]:
    path = _place(name, out)
    if path is None:
        raise AvrtError(
            f"{name} is no folder with exported traces", where=where, remedy="finish that run first, with export"
        )
    return read_traces(path) or []


def _listed(path: Path) -> frozenset[str]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if not text.lstrip().startswith(("{", '"')):
            return frozenset(clean(line.strip()) for line in text.split("\n") if line.strip())
        records = [record for _, record in json_lines(text)]
        return frozenset(clean(str(r["id"] if isinstance(r, dict) else r)) for r in records)
    except (ValueError, KeyError) as error:
        remedy = "an id on each line, or JSON lines with id"
        raise AvrtError(f"holds no ids: {error}", where=path, remedy=remedy) from None
