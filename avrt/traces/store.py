"""The durable record of every call: SQLite in WAL mode, written in groups by one thread, shared by processes.

Several trace folders, such as those of ablations, may share the calls of one store. A process claims a call before it
makes it, and finishes it when the reply is on disk: a killed run repeats no finished call, and no two processes make
the same call.
"""

from __future__ import annotations

import asyncio
import fcntl
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from avrt.errors import AvrtError
from avrt.text import clean, clean_all
from avrt.traces.process_lock import ProcessLock
from avrt.traces.requests import Reply, Request

T = TypeVar("T")
Row = Mapping[str, object]
FILE = "store.sqlite3"
LOCK = "store.lock"
SCHEMA_VERSION = 2
GROUP = 512
CALLS = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT PRIMARY KEY, sample TEXT NOT NULL, role TEXT NOT NULL, model TEXT NOT NULL, number INTEGER NOT NULL,
    sampling TEXT NOT NULL, prompt_hash TEXT NOT NULL, system TEXT NOT NULL, prompt TEXT NOT NULL,
    pictures INTEGER NOT NULL, sound INTEGER NOT NULL, status TEXT NOT NULL, owner TEXT NOT NULL,
    text TEXT, reasoning TEXT, finish_reason TEXT,
    prompt_tokens INTEGER, completion_tokens INTEGER, seconds REAL, attempts INTEGER, error TEXT,
    changed TEXT DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_by_sample ON calls (sample, role, number);
"""
# Outcomes and verdicts of every trace folder that shares the store; the name of the store's own folder is empty.
RESULTS = """
CREATE TABLE IF NOT EXISTS outcomes (
    folder TEXT NOT NULL, sample TEXT NOT NULL, run TEXT NOT NULL, position INTEGER NOT NULL, status TEXT NOT NULL,
    reason TEXT, difficulty TEXT, clip TEXT NOT NULL, trace TEXT, merger_call TEXT, PRIMARY KEY (folder, sample)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS verdicts (
    folder TEXT NOT NULL, sample TEXT NOT NULL, run TEXT NOT NULL, teacher TEXT NOT NULL, letter TEXT,
    votes TEXT NOT NULL, answer TEXT NOT NULL, correct INTEGER NOT NULL, call TEXT,
    PRIMARY KEY (folder, sample, teacher)
) WITHOUT ROWID;
"""
# A store of version 1 has one trace folder.
_COLUMNS = {
    "outcomes": "sample, run, position, status, reason, difficulty, clip, trace, merger_call",
    "verdicts": "sample, run, teacher, letter, votes, answer, correct, call",
}


class UnstorableError(AvrtError):
    """SQLite does not take a value of one record; the other records are kept."""


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


class CallStore:
    """A store as one of several processes uses it: all calls, and the outcomes of one trace folder.

    Every method that writes returns when its change is on disk.

    Args:
        folder: The store's folder; created if missing.
        retry_failed: Make calls again that failed in an earlier run.
        results: The trace folder's name in the store; see `TraceFolder.name`.

    Raises:
        AvrtError: If the file cannot be read as a store of this version.
    """

    def __init__(self, folder: Path, *, retry_failed: bool = True, results: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._results = results
        self._lock = ProcessLock(folder / "owners")
        self._retry_failed = retry_failed
        self._dead: set[str] = set()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        connect(folder, create=True).close()
        self._thread = threading.Thread(target=self._work, name="trace store", daemon=True)
        self._thread.start()

    async def claim(self, key: str, request: Request, model: str) -> Claim:
        """Claim a call, so that no other process makes it."""
        return await self._do(lambda db: self._claim(db, key, request, model))

    async def look_up(self, key: str) -> Claim | None:
        """The state of a call without a claim; None if it is neither done nor failed."""
        row = await self._do(lambda db: db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone())
        if row is None or row["status"] == "running":
            return None
        return Claim("done", reply_of(row)) if row["status"] == "done" else Claim("failed", error=row["error"])

    async def finish(self, key: str, reply: Reply) -> Reply:
        """Keep a reply, and return the kept form, in which U+FFFD replaces NUL and lone surrogates."""
        kept = Reply(**clean_all(asdict(reply)))
        await self._update(key, status="done", error=None, **asdict(kept))
        return kept

    async def fail(self, key: str, error: str) -> None:
        """Keep the reason why a call has failed permanently."""
        await self._update(key, status="failed", error=clean(error))

    async def _update(self, key: str, **columns: object) -> None:
        changes = ", ".join(f"{name} = :{name}" for name in columns)
        query = f"UPDATE calls SET {changes}, changed = CURRENT_TIMESTAMP WHERE key = :key"
        await self._do(lambda db: db.execute(query, {"key": key, **columns}))

    async def release(self, key: str) -> None:
        """Give up a claim whose call was not made."""
        await self._do(lambda db: db.execute("DELETE FROM calls WHERE key = ? AND status = 'running'", (key,)))

    async def record_outcome(self, run: str, outcome: Outcome, verdicts: Sequence[Row]) -> None:
        """Keep a sample's outcome and verdicts, in place of those of an earlier run of the same trace folder."""
        await self._do(lambda db: _record_outcome(db, self._results, run, outcome, verdicts))

    def close(self) -> None:
        """Finish the queued jobs and release the process lock."""
        self._queue.put(None)
        self._thread.join()
        self._lock.release()

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Queue a job for the store's thread and wait for its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Job(work, future, loop))
        return await future

    def _work(self) -> None:
        """Run queued jobs, all that wait in one transaction."""
        with closing(connect(self.folder)) as db:
            while True:
                jobs = [self._queue.get()]
                while len(jobs) < GROUP and not self._queue.empty():
                    jobs.append(self._queue.get())
                todo = [job for job in jobs if job is not None]
                try:
                    if self._failure is not None:
                        raise self._failure
                    db.execute("BEGIN IMMEDIATE")
                    results = [_attempt(db, job) for job in todo]
                    db.execute("COMMIT")
                    _deliver([(job, *result) for job, result in zip(todo, results, strict=True)])
                except Exception as error:  # any error goes to those who wait
                    self._failure = self._failure or _as_avrt_error(error, self.folder)
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    _deliver([(job, None, self._failure) for job in todo])
                if len(todo) < len(jobs):
                    return

    def _claim(self, db: sqlite3.Connection, key: str, request: Request, model: str) -> Claim:
        """Claim a call that is new, that a dead process has claimed, or that failed in an earlier run."""
        row = db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            record: Row = {
                "key": key, "sample": request.sample_id, "role": request.role, "model": model, "number": request.number,
                "sampling": request.sampling.record, "prompt_hash": request.prompt_hash,
                "system": request.system, "prompt": request.prompt, "pictures": len(request.media.images),
                "sound": int(request.media.audio is not None), "status": "running", "owner": self._lock.name,
            }  # fmt: skip
            _insert(db, "INSERT", "calls", record)
            return Claim("mine")
        if row["status"] == "done":
            return Claim("done", reply_of(row))
        mine = row["owner"] == self._lock.name
        if row["status"] == "failed" and (mine or not self._retry_failed):
            return Claim("failed", error=row["error"])
        if row["status"] == "running" and not mine and self._is_running(row["owner"]):
            return Claim("elsewhere")
        db.execute("UPDATE calls SET status = 'running', owner = ? WHERE key = ?", (self._lock.name, key))
        return Claim("mine")

    def _is_running(self, owner: str) -> bool:
        if owner not in self._dead and not self._lock.is_held(owner):
            self._dead.add(owner)
        return owner not in self._dead


@dataclass(frozen=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


_Result = tuple[_Job, object, BaseException | None]


def _attempt(db: sqlite3.Connection, job: _Job) -> tuple[object, Exception | None]:
    """Run one job of a group. An error of its record fails this job alone, an error of the store fails the group."""
    db.execute("SAVEPOINT job")
    try:
        result = job.work(db)
    except (sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError, ValueError, OverflowError) as error:
        db.execute("ROLLBACK TO job")
        return None, UnstorableError(f"cannot be kept: {error}")
    finally:
        if db.in_transaction:
            db.execute("RELEASE job")
    return result, None


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


def connect(folder: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a store; one of an earlier version is upgraded, with its calls and outcomes.

    Raises:
        AvrtError: If there is none, or it cannot be read.
    """
    path = folder / FILE
    if not create and not path.is_file():
        raise AvrtError("holds no traces", where=folder, remedy="run avrt traces run --out there first")
    try:
        db = sqlite3.connect(path, timeout=60, isolation_level=None)
        db.row_factory = sqlite3.Row
        if _version(db) < SCHEMA_VERSION:
            _create(db, folder)
        db.execute("PRAGMA synchronous = FULL")
        if (version := _version(db)) != SCHEMA_VERSION:
            what = f"is a store of version {version}, this avrt reads {SCHEMA_VERSION}"
            raise AvrtError(what, where=path, remedy="use the avrt that wrote it, or another folder")
    except sqlite3.Error as error:
        raise _as_avrt_error(error, folder) from None
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _create(db: sqlite3.Connection, folder: Path) -> None:
    """Create the tables of a new store, or upgrade one of version 1, unless another process just did.

    A file lock makes processes wait for each other, as a change of the journal mode fails instead of waiting.
    """
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (version := _version(db)) == 0:
            db.execute("PRAGMA journal_mode = WAL")
            db.executescript(f"{CALLS} {RESULTS} PRAGMA user_version = {SCHEMA_VERSION};")
        elif version == 1:
            db.execute("BEGIN IMMEDIATE")
            for table in _COLUMNS:
                db.execute(f"ALTER TABLE {table} RENAME TO {table}_before")
            for statement in filter(str.strip, RESULTS.split(";")):
                db.execute(statement)
            for table, columns in _COLUMNS.items():
                db.execute(f"INSERT INTO {table} (folder, {columns}) SELECT '', {columns} FROM {table}_before")
                db.execute(f"DROP TABLE {table}_before")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            db.execute("COMMIT")


def reply_of(row: sqlite3.Row) -> Reply:
    """The reply in a row of `calls`."""
    return Reply(**{field.name: row[field.name] for field in fields(Reply)})


def rows(folder: Path, query: str, values: tuple[object, ...] = ()) -> Iterator[sqlite3.Row]:
    """Run a query on the store in a folder."""
    with closing(connect(folder)) as db:
        yield from db.execute(query, values)


def _record_outcome(db: sqlite3.Connection, folder: str, run: str, outcome: Outcome, verdicts: Sequence[Row]) -> None:
    _insert(db, "INSERT OR REPLACE", "outcomes", {"folder": folder, "run": run, **asdict(outcome)})
    db.execute("DELETE FROM verdicts WHERE folder = ? AND sample = ?", (folder, clean(outcome.sample)))
    for verdict in verdicts:
        _insert(db, "INSERT", "verdicts", {"folder": folder, "sample": outcome.sample, "run": run, **verdict})


def _insert(db: sqlite3.Connection, how: str, table: str, record: Row) -> None:
    """Add a row, with its texts cleaned for the store."""
    columns, marks = ", ".join(record), ", ".join("?" * len(record))
    db.execute(f"{how} INTO {table} ({columns}) VALUES ({marks})", list(clean_all(record).values()))


def _as_avrt_error(error: Exception, folder: Path) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    return AvrtError(
        f"the store cannot be used: {error}",
        where=folder / FILE,
        remedy="free disk space or repair the file, then run the same command again; finished calls are kept",
    )
