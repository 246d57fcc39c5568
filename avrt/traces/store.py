"""The durable record of every call: SQLite in WAL mode, written in groups by one thread, shared by processes.

Several trace folders, such as those of ablations, may use one store: its calls are theirs in common. A call is claimed
before it is made and finished when its reply is on disk, so that a killed run repeats nothing that was finished, and of
two processes on one store each makes other calls.
"""

from __future__ import annotations

import asyncio
import fcntl
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from avrt.errors import AvrtError
from avrt.text import clean, clean_all
from avrt.traces.owners import Owner, is_alive
from avrt.traces.requests import Reply, Request

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
# What became of samples, for each trace folder that the calls serve; the store's own folder is the empty name.
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
# Version 1 knew one folder for each store.
_COLUMNS = {
    "outcomes": "sample, run, position, status, reason, difficulty, clip, trace, merger_call",
    "verdicts": "sample, run, teacher, letter, votes, answer, correct, call",
}


class UnstorableError(AvrtError):
    """One record holds what SQLite does not take; the others are kept."""


@dataclass(frozen=True)
class Claim:
    """What a claim found.

    Attributes:
        state: `mine` to make now; `done` or `failed` before; `elsewhere` while another process is at it.
        reply: What was replied, if done.
        error: Why it failed, if it did.
    """

    state: Literal["mine", "done", "failed", "elsewhere"]
    reply: Reply | None = None
    error: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one sample.

    Attributes:
        sample: Its id.
        position: Its place in the shards.
        status: `kept`, `dropped`, `failed`, or `waiting` for a stage that has not been run.
        reason: Why it was not kept.
        difficulty: By the teachers' verdicts; None where a teacher's call failed.
        clip: Digest of its media, equal for all questions about one clip.
        trace: The merged trace, if kept.
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
    """The calls of a store, and the outcomes of one trace folder that it serves, for one process among several.

    Every method that writes returns when its change is on disk.

    Args:
        folder: The store's folder; created if missing.
        retry_failed: Make calls again that failed in an earlier run.
        results: What the trace folder is called in the store; see `name_in_store`.

    Raises:
        AvrtError: If the file there is no store of this version.
    """

    def __init__(self, folder: Path, *, retry_failed: bool = True, results: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._results = results
        self._owner = Owner(folder / "owners")
        self._retry_failed = retry_failed
        self._dead: set[str] = set()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failure: BaseException | None = None
        connect(folder, create=True).close()
        self._thread = threading.Thread(target=self._work, name="trace store", daemon=True)
        self._thread.start()

    async def claim(self, key: str, request: Request, model: str) -> Claim:
        """Ask for the right to make a call; see `Claim`."""
        return await self._do(lambda db: self._claim(db, key, request, model))

    async def look_up(self, key: str) -> Claim | None:
        """What is known of a call that is not to be made; None if it is neither done nor failed."""
        row = await self._do(lambda db: db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone())
        if row is None or row["status"] == "running":
            return None
        return Claim("done", reply_of(row)) if row["status"] == "done" else Claim("failed", error=row["error"])

    async def finish(self, key: str, reply: Reply) -> Reply:
        """Keep a reply, and return it as it is kept: with U+FFFD for what can be written nowhere."""
        kept = Reply(**clean_all(asdict(reply)))
        await self._do(
            lambda db: db.execute(
                "UPDATE calls SET status = 'done', text = :text, reasoning = :reasoning, "
                "finish_reason = :finish_reason, prompt_tokens = :prompt_tokens, "
                "completion_tokens = :completion_tokens, seconds = :seconds, "
                "attempts = :attempts, error = NULL, changed = CURRENT_TIMESTAMP WHERE key = :key",
                {"key": key, **asdict(kept)},
            )
        )
        return kept

    async def fail(self, key: str, error: str) -> None:
        """Keep the reason why a call failed for good."""
        await self._do(
            lambda db: db.execute(
                "UPDATE calls SET status = 'failed', error = ?, changed = CURRENT_TIMESTAMP WHERE key = ?",
                (clean(error), key),
            )
        )

    async def release(self, key: str) -> None:
        """Give back a claim whose call was not made."""
        await self._do(lambda db: db.execute("DELETE FROM calls WHERE key = ? AND status = 'running'", (key,)))

    async def conclude(self, run: str, outcome: Outcome, verdicts: list[dict[str, Any]]) -> None:
        """Keep a sample's outcome and verdicts, in place of those of an earlier run for the same trace folder."""
        await self._do(lambda db: _conclude(db, self._results, run, outcome, verdicts))

    def close(self) -> None:
        """Finish what is queued and give up ownership."""
        self._queue.put(None)
        self._thread.join()
        self._owner.release()

    async def _do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(_Job(work, future, loop))
        return await future

    def _work(self) -> None:
        """Run queued jobs, as many as are waiting in one transaction."""
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
                    _settle([(job, *result) for job, result in zip(todo, results, strict=True)])
                except Exception as error:  # whatever it is, those who wait must be told
                    self._failure = self._failure or _explained(error, self.folder)
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                    _settle([(job, None, self._failure) for job in todo])
                if len(todo) < len(jobs):
                    return

    def _claim(self, db: sqlite3.Connection, key: str, request: Request, model: str) -> Claim:
        row = db.execute("SELECT * FROM calls WHERE key = ?", (key,)).fetchone()
        if row is None:
            record = {
                "key": key, "sample": request.sample_id, "role": request.role, "model": model, "number": request.number,
                "sampling": request.sampling.record, "prompt_hash": request.prompt_hash,
                "system": request.system, "prompt": request.prompt, "pictures": len(request.media.pictures),
                "sound": int(request.media.sound is not None), "status": "running", "owner": self._owner.name,
            }  # fmt: skip
            _insert(db, "INSERT", "calls", record)
            return Claim("mine")
        if row["status"] == "done":
            return Claim("done", reply_of(row))
        mine = row["owner"] == self._owner.name
        if row["status"] == "failed" and (mine or not self._retry_failed):
            return Claim("failed", error=row["error"])
        if row["status"] == "running" and not mine and self._is_alive(row["owner"]):
            return Claim("elsewhere")
        db.execute("UPDATE calls SET status = 'running', owner = ? WHERE key = ?", (self._owner.name, key))
        return Claim("mine")

    def _is_alive(self, owner: str) -> bool:
        if owner not in self._dead and not is_alive(self._owner.folder, owner):
            self._dead.add(owner)
        return owner not in self._dead


@dataclass(frozen=True)
class _Job:
    work: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


def _attempt(db: sqlite3.Connection, job: _Job) -> tuple[Any, Exception | None]:
    """One job of a group; what cannot be kept of it costs the others nothing, a store that fails costs them all."""
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


def _settle(answers: list[tuple[_Job, Any, BaseException | None]]) -> None:
    """Hand results to those who wait, waking each event loop once: a wake-up costs more than a short job."""

    def settle(mine: list[tuple[_Job, Any, BaseException | None]]) -> None:
        for job, result, error in mine:
            if job.future.done():
                continue
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)

    for loop in {job.loop for job, _, _ in answers}:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, [answer for answer in answers if answer[0].loop is loop])


def connect(folder: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a store; one of an earlier version is brought up to this one, its calls and outcomes kept.

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
            raise AvrtError(f"is a store of version {version}, this avrt reads {SCHEMA_VERSION}", where=path)
    except sqlite3.Error as error:
        raise _explained(error, folder) from None
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _create(db: sqlite3.Connection, folder: Path) -> None:
    """Set a store up, or bring one of version 1 up to date, unless another process just did.

    One process after the other: changing the journal mode does not wait for others, it fails.
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
    """The reply that a row of `calls` holds."""
    names = ("text", "reasoning", "finish_reason", "prompt_tokens", "completion_tokens", "seconds", "attempts")
    return Reply(**{name: row[name] for name in names})


def rows(folder: Path, query: str, values: tuple[Any, ...] = ()) -> Iterator[sqlite3.Row]:
    """Run a query on a trace folder's store."""
    with closing(connect(folder)) as db:
        yield from db.execute(query, values)


def _conclude(db: sqlite3.Connection, folder: str, run: str, outcome: Outcome, verdicts: list[dict[str, Any]]) -> None:
    _insert(db, "INSERT OR REPLACE", "outcomes", {"folder": folder, "run": run, **asdict(outcome)})
    db.execute("DELETE FROM verdicts WHERE folder = ? AND sample = ?", (folder, clean(outcome.sample)))
    for verdict in verdicts:
        _insert(db, "INSERT", "verdicts", {"folder": folder, "sample": outcome.sample, "run": run, **verdict})


def _insert(db: sqlite3.Connection, how: str, table: str, record: dict[str, Any]) -> None:
    """Add a row; its texts are cleaned here, where they enter the store."""
    columns, marks = ", ".join(record), ", ".join("?" * len(record))
    db.execute(f"{how} INTO {table} ({columns}) VALUES ({marks})", list(clean_all(record).values()))


def _explained(error: Exception, folder: Path) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    return AvrtError(
        f"the store cannot be used: {error}",
        where=folder / FILE,
        remedy="make room or mend it, then run the same command again; finished calls are kept",
    )
