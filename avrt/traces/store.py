"""The durable record of every call, written in groups by one thread, shared by processes.

A store is a file of SQLite in a folder, for the processes of one machine, or a database of PostgreSQL, for those of
many (`avrt.traces.store_place`). Several trace folders, such as those of ablations, may share the calls of one store. A
process claims a call before it makes it, and finishes it when the reply is on disk: a killed run repeats no finished
call, its claims go to others, and no two processes make the same call.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from avrt.text import clean, clean_all
from avrt.traces import claims, outcomes, postgres_store
from avrt.traces.claims import Claim, Wanted
from avrt.traces.database import connect_to_write, owner_of
from avrt.traces.group_writer import GroupWriter
from avrt.traces.outcomes import Block, Decided, Outcome
from avrt.traces.requests import Reply, Request
from avrt.traces.store_errors import as_avrt_error
from avrt.traces.store_place import StorePlace


class CallStore:
    """A store as one of several processes uses it: all calls, and the outcomes of one trace folder.

    Every method that writes returns when its change is on disk.

    Args:
        place: The store's folder, created if missing, or its database.
        retry_failed: Make calls again that failed in an earlier run.
        results: The trace folder's name in the store; see `TraceFolder.name`.

    Attributes:
        longest_id: Most bytes of a sample's id; None for any number.

    Raises:
        AvrtError: If it cannot be read as a store of this version.
    """

    def __init__(self, place: StorePlace, *, retry_failed: bool = True, results: str = "") -> None:
        self.longest_id = None if isinstance(place, Path) else postgres_store.LONGEST_ID
        self._place = place
        self._results = results
        self._retry_failed = retry_failed
        db = connect_to_write(place, create=True)
        try:
            self._owner = owner_of(place, db)
        except SQLAlchemyError as error:
            db.close()
            raise as_avrt_error(error, place) from None
        order = (self._claim, claims.look_up, claims.finish, self._release, outcomes.record, outcomes.decided)
        self._writer = GroupWriter(db, place, order)

    async def claim(self, key: str, request: Request, model: str) -> Claim:
        """Claim a call, so that no other process makes it."""
        return await self._writer.do(self._claim, Wanted(key, request, model))

    async def look_up(self, key: str) -> Claim | None:
        """The state of a call without a claim; None if it is neither done nor failed."""
        return await self._writer.do(claims.look_up, key)

    async def finish(self, key: str, reply: Reply) -> Reply:
        """Keep a reply, and return the kept form, in which U+FFFD replaces NUL and lone surrogates."""
        kept = Reply(**clean_all(asdict(reply)))
        await self._writer.do(claims.finish, {"of": key, "status": "done", "error": None, **asdict(kept)})
        return kept

    async def fail(self, key: str, error: str) -> None:
        """Keep the reason why a call has failed permanently."""
        nothing = dict.fromkeys(asdict(Reply("")))
        await self._writer.do(claims.finish, {"of": key, "status": "failed", **nothing, "error": clean(error)})

    async def release(self, key: str) -> None:
        """Give up a claim whose call was not made."""
        await self._writer.do(self._release, key)

    async def record_outcome(self, run: str, outcome: Outcome, verdicts: Sequence[Mapping[str, object]]) -> None:
        """Keep a sample's outcome and verdicts, in place of those of an earlier run of the same trace folder."""
        await self._writer.do(outcomes.record, Decided(self._results, run, outcome, verdicts))

    async def decided(self, run: str, positions: Sequence[int]) -> dict[int, str]:
        """Samples of a block that any worker of the run has kept or dropped, with their statuses.

        In a folder there are none: there a run's name says where the questions are, not what they are, so that each is
        decided again by the calls in the store.

        Args:
            run: The run's name.
            positions: Where the samples are in the shards.
        """
        if isinstance(self._place, Path) or not positions:
            return {}
        return await self._writer.do(outcomes.decided, Block(self._results, run, positions))

    def first_of(self, samples: int) -> int:
        """The sample that this process begins with: the first, or any of those that many machines work on.

        There, workers that all began with the first would get in each other's way on every sample.
        """
        return 0 if isinstance(self._place, Path) or not samples else random.Random(self._owner.name).randrange(samples)

    def close(self) -> None:
        """Finish the queued jobs and show that this process has ended."""
        self._writer.close()
        self._owner.release()

    def _claim(self, db: Connection, wanted: Sequence[Wanted]) -> list[Claim]:
        return claims.claim(db, wanted, self._owner, self._retry_failed)

    def _release(self, db: Connection, keys: Sequence[str]) -> list[None]:
        return claims.release(db, keys, self._owner)
