"""Outcomes and verdicts of samples in their tables, for many samples at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, delete, insert, select

from avrt.text import clean_all
from avrt.traces.schema import outcomes, verdicts
from avrt.traces.upsert import insert_into


@dataclass(frozen=True)
class Outcome:
    """The outcome of one sample.

    Attributes:
        sample: The sample's id.
        position: Its index in the shards.
        status: `kept`, `dropped`, `failed`, or `waiting` for a stage that has not been run.
        reason: Why it is not kept.
        difficulty: By the teachers' verdicts; None where a teacher's call failed.
        clip: Hash of its media, equal for all questions about one clip.
        trace: The merged trace of a kept sample.
        merger_call: Key of the call that the trace comes from.
    """

    sample: str
    position: int
    status: Literal["kept", "dropped", "failed", "waiting"]
    reason: str | None
    difficulty: str | None
    clip: str
    trace: str | None = None
    merger_call: str | None = None


@dataclass(frozen=True)
class Decided:
    """An outcome with what it comes from.

    Attributes:
        folder: The trace folder's name in the store.
        run: The run's name.
        outcome: The outcome.
        verdicts: The columns of each teacher's verdict.
    """

    folder: str
    run: str
    outcome: Outcome
    verdicts: Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class Block:
    """Some samples of a run.

    Attributes:
        folder: The trace folder's name in the store.
        run: The run's name.
        positions: Where they are in the shards.
    """

    folder: str
    run: str
    positions: Sequence[int]


def decided(db: Connection, blocks: Sequence[Block]) -> list[dict[int, str]]:
    """Samples that are kept or dropped for good in a run: their statuses by position, for each block.

    Those that failed are not among them, as the next run may make their calls again.
    """
    query = select(outcomes.c.position, outcomes.c.status).where(outcomes.c.status.in_(("kept", "dropped")))
    found = []
    for block in blocks:
        here = (outcomes.c.folder == block.folder, outcomes.c.run == block.run)
        chosen = db.execute(query.where(*here, outcomes.c.position.in_(block.positions)))
        found.append({row.position: row.status for row in chosen})
    return found


def record(db: Connection, decided: Sequence[Decided]) -> list[None]:
    """Keep outcomes and verdicts, in place of those of an earlier run of the same trace folder."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    judged: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in decided:
        here = clean_all({"folder": one.folder, "sample": one.outcome.sample, "run": one.run})
        name = (here["folder"], here["sample"])
        rows[name] = clean_all({**asdict(one.outcome), **here})
        judged[name] = [clean_all({**verdict, **here}) for verdict in one.verdicts]
    # The row of an outcome is the lock on its verdicts; all processes take these in the same order.
    added = insert_into(db, outcomes)
    changed = {column.name: added.excluded[column.name] for column in outcomes.c if not column.primary_key}
    upsert = added.on_conflict_do_update(index_elements=[outcomes.c.folder, outcomes.c.sample], set_=changed)
    db.execute(upsert, [rows[name] for name in sorted(rows)])
    of_sample = (verdicts.c.folder == bindparam("of_folder"), verdicts.c.sample == bindparam("of_sample"))
    db.execute(delete(verdicts).where(*of_sample), [{"of_folder": f, "of_sample": s} for f, s in sorted(rows)])
    if new := [verdict for name in sorted(judged) for verdict in judged[name]]:
        db.execute(insert(verdicts), new)
    return [None] * len(decided)
