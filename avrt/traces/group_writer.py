"""One thread that writes for many tasks: whatever waits is written in one transaction, each kind of work at once."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from avrt.traces.store_errors import UnstorableError, as_avrt_error, refuses_record, worth_repeating
from avrt.traces.store_place import StorePlace

A = TypeVar("A")
R = TypeVar("R")
Work = Callable[[Connection, Sequence[A]], Sequence[R]]
"""Does one kind of work for several arguments in a transaction, and returns a result for each."""
GROUP = 512
REPEATS = 10
_Result = tuple["_Job", object, BaseException | None]


class GroupWriter:
    """The thread.

    Args:
        db: The connection that it writes with; it closes it.
        place: The store, for messages.
        order: The kinds of work in the order in which a transaction does them. It is the same in all processes, and
            each kind takes its rows in their order, so that transactions do not wait for each other in circles.
    """

    def __init__(self, db: Connection, place: StorePlace, order: Sequence[Work[Any, Any]]) -> None:
        self._db = db
        self._place = place
        self._order = order
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="trace store", daemon=True)
        self._thread.start()

    async def do(self, work: Work[A, R], argument: A) -> R:
        """Queue one piece of work, and wait until it is on disk.

        Raises:
            UnstorableError: If the store does not take its values.
            AvrtError: If the store cannot be used any more.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._queue.put(_Job(work, argument, future, loop))
        return await future

    def close(self) -> None:
        """Finish the queued work and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._write_group():
                pass
        finally:
            self._db.close()

    def _write_group(self) -> bool:
        """Write what waits in one transaction; returns whether more may come."""
        jobs = [self._queue.get()]
        while len(jobs) < GROUP and not self._queue.empty():
            jobs.append(self._queue.get())
        todo = [job for job in jobs if job is not None]
        try:
            if self._failure is not None:
                raise self._failure
            _deliver(self._transaction(todo))
        except Exception as error:  # any error goes to those who wait
            self._failure = self._failure or as_avrt_error(error, self._place)
            _deliver([(job, None, self._failure) for job in todo])
        return len(todo) == len(jobs)

    def _transaction(self, jobs: list[_Job]) -> list[_Result]:
        kinds: dict[Work[Any, Any], list[_Job]] = {work: [] for work in self._order}
        for job in jobs:
            kinds.setdefault(job.work, []).append(job)
        for repeat in range(REPEATS):
            try:
                with self._db.begin():
                    return [result for same in kinds.values() if same for result in _attempt(self._db, same)]
            except SQLAlchemyError as error:
                if repeat == REPEATS - 1 or not worth_repeating(error):
                    raise
        raise AssertionError


@dataclass(frozen=True)
class _Job:
    work: Work[Any, Any]
    argument: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


def _attempt(db: Connection, jobs: list[_Job]) -> list[_Result]:
    """Do jobs of one kind at once, or one by one where a record is refused, which then fails alone.

    An error of the store fails the transaction.
    """
    try:
        with db.begin_nested():
            results = jobs[0].work(db, [job.argument for job in jobs])
    except (SQLAlchemyError, ValueError, OverflowError) as error:
        if not refuses_record(error):
            raise
        if len(jobs) > 1:
            return [result for job in jobs for result in _attempt(db, [job])]
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        return [(jobs[0], None, UnstorableError(f"cannot be kept: {cause}"))]
    return [(job, result, None) for job, result in zip(jobs, results, strict=True)]


def _deliver(results: list[_Result]) -> None:
    """Hand results to those who wait. Each event loop wakes up once, as waking takes longer than a short job."""

    def set_results(own: list[_Result]) -> None:
        for job, result, error in own:
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    for loop in {job.loop for job, _, _ in results}:
        if not loop.is_closed():
            loop.call_soon_threadsafe(set_results, [result for result in results if result[0].loop is loop])
