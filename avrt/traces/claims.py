"""Claims, replies and errors of calls in the table `calls`, for many calls at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, select, update

from avrt.text import clean_all
from avrt.traces.database import Owner
from avrt.traces.requests import Reply, Request
from avrt.traces.schema import calls
from avrt.traces.upsert import insert_into

NOBODY = "nobody"
"""The owner of a failed call that was claimed again and given up: no process has its name."""
_REPLY = [calls.c[field.name] for field in fields(Reply)]


@dataclass(frozen=True)
class Claim:
    """The state of a call after a claim.

    Attributes:
        state: `mine` for this process to make; `done` or `failed` earlier; `elsewhere` while another process makes it.
        reply: The reply of a call that is done.
        error: The reason of a failed call.
    """

    state: Literal["mine", "done", "failed", "elsewhere"]
    reply: Reply | None = None
    error: str | None = None


@dataclass(frozen=True)
class Wanted:
    """A call that a process wants to make.

    Attributes:
        key: Its key.
        request: What is asked.
        model: Whom.
    """

    key: str
    request: Request
    model: str

    def record(self, owner: str) -> dict[str, Any]:
        """Its row while its owner makes it, with texts that any database takes."""
        request = self.request
        return {
            **clean_all({
                "key": self.key, "sample": request.sample_id, "role": request.role, "model": self.model,
                "sampling": request.sampling.record, "prompt_hash": request.prompt_hash,
                "system": request.system, "prompt": request.prompt,
            }),
            "number": request.number, "pictures": len(request.media.images),
            "sound": int(request.media.audio is not None), "status": "running", "owner": owner,
        }  # fmt: skip


def claim(db: Connection, wanted: Sequence[Wanted], owner: Owner, retry_failed: bool) -> list[Claim]:
    """Claim calls that are new, that a dead process has claimed, or that failed in an earlier run.

    A run is all processes that work at the same time: what failed in one of them is not repeated by the others.

    Nothing is taken on the word of an earlier statement: a row is added only if there is none yet, and given to this
    process only if it still has the owner that was found dead. So a process that runs at the same time gets the call,
    or this one, but never both.
    """
    by_key = {call.key: call for call in wanted}
    found = _states(db, list(by_key))
    states: dict[str, Claim] = {}
    # In the order of keys, so that two processes that add the same rows wait for each other on the first one.
    if new := sorted(by_key.keys() - found.keys()):
        added = insert_into(db, calls).on_conflict_do_nothing().returning(calls.c.key)
        mine = set(db.scalars(added, [by_key[key].record(owner.name) for key in new]))
        states.update(dict.fromkeys(mine, Claim("mine")))
        if lost := by_key.keys() - found.keys() - mine:
            found.update(_states(db, list(lost)))
    unfinished = {row["owner"] for row in found.values() if row["status"] != "done"} - {owner.name}
    running = owner.running(db, unfinished) if unfinished else set()
    final = (owner.met(unfinished) if retry_failed else unfinished) | {owner.name}
    for key in sorted(found):
        states[key] = _claim_found(db, key, found[key], owner.name, running, final)
    # a row that was there and is gone: its owner gave the call up at this moment
    return [states.get(call.key, Claim("elsewhere")) for call in wanted]


def _claim_found(db: Connection, key: str, row: RowMapping, me: str, running: set[str], final: set[str]) -> Claim:
    """Claim a call that has a row, unless it is done, made by somebody, or failed by an owner whose word is final."""
    if row["status"] == "done":
        return Claim("done", reply_of(row))
    mine = row["owner"] == me
    if row["status"] == "failed" and row["owner"] in final:
        return Claim("failed", error=row["error"])
    if row["status"] == "running" and mine:
        return Claim("mine")
    if row["status"] == "running" and row["owner"] in running:
        return Claim("elsewhere")
    as_found = (calls.c.key == key, calls.c.status == row["status"], calls.c.owner == row["owner"])
    taken = db.execute(update(calls).where(*as_found).values(status="running", owner=me))
    return Claim("mine" if taken.rowcount else "elsewhere")


def look_up(db: Connection, keys: Sequence[str]) -> list[Claim | None]:
    """The states of calls without claims; None for one that is neither done nor failed."""
    found = _states(db, list(set(keys)))

    def state(row: RowMapping | None) -> Claim | None:
        if row is None or row["status"] == "running":
            return None
        return Claim("done", reply_of(row)) if row["status"] == "done" else Claim("failed", error=row["error"])

    return [state(found.get(key)) for key in keys]


def finish(db: Connection, records: Sequence[Mapping[str, Any]]) -> list[None]:
    """Change columns of calls, given as `of`, the key, and new values by column; each has the same columns."""
    changed = update(calls).where(calls.c.key == bindparam("of")).values(changed=func.current_timestamp())
    db.execute(changed, [dict(record) for record in records])
    return [None] * len(records)


def release(db: Connection, keys: Sequence[str], owner: Owner) -> list[None]:
    """Give up claims whose calls were not made; one that had failed in an earlier run is a failed call again."""
    own = (calls.c.key.in_(keys), calls.c.status == "running", calls.c.owner == owner.name)
    db.execute(update(calls).where(*own, calls.c.error.is_not(None)).values(status="failed", owner=NOBODY))
    db.execute(delete(calls).where(*own))
    return [None] * len(keys)


def reply_of(row: RowMapping) -> Reply:
    """The reply in a row of `calls`."""
    return Reply(**{column.name: row[column.name] for column in _REPLY})


def _states(db: Connection, keys: list[str]) -> dict[str, RowMapping]:
    """What a claim has to know of calls, by key."""
    query = select(calls.c.key, calls.c.status, calls.c.owner, calls.c.error, *_REPLY).where(calls.c.key.in_(keys))
    return {row["key"]: row for row in db.execute(query).mappings()}
