"""The folder of a run's exports, and the store of its calls, which several trace folders may share."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import select

from avrt.errors import AvrtError
from avrt.messages import printable
from avrt.remote.stores import is_remote
from avrt.text import to_json
from avrt.traces import schema
from avrt.traces.database import require_store, rows
from avrt.traces.store_place import SQLITE_FILE, StorePlace, is_of_this_machine, read_place, written

RUN = "run.json"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
_TAKEN = ("shards", "labelled", "owners")


@dataclass(frozen=True)
class TraceFolder:
    """The folder that one run exports to.

    Attributes:
        path: The folder itself.
        store: The folder or database of the store with the calls.
        name: The trace folder's name in the store: its path from the store's folder, empty for that folder itself. In a
            database it is the last part of `out`, with the run's name below it, so that it is the same on all machines,
            and, by `of_questions`, what identifies the questions.
    """

    path: Path
    store: StorePlace
    name: str = ""

    @classmethod
    def of_run(cls, out: str, name: str | None = None, store: str | None = None) -> TraceFolder:
        """The folder that a run writes to.

        Args:
            out: The folder of all runs of one experiment.
            name: The run's folder inside it; None for `out` itself.
            store: The folder or database of the calls; None for `out`.

        Raises:
            AvrtError: If the name is not a plain file name, or has another meaning in `out`, or the store is not one.
        """
        if name is not None and (not _NAME.fullmatch(name) or name in _TAKEN):
            remedy = f"use letters, digits, _, - and dots; not {', '.join(_TAKEN)}"
            raise AvrtError(f"{name!r} cannot be the name of a trace folder", where="name", remedy=remedy)
        path = Path(out) if name is None else Path(out, name)
        kept = read_place(out if store is None else store)
        if not isinstance(kept, Path):
            return cls(path, kept, "/".join([Path(out).resolve().name, *([] if name is None else [name])]))
        return cls(path, kept, _relative(path, kept))

    def of_questions(self, digest: str) -> TraceFolder:
        """The folder with its name in the store for a run about some questions.

        In a database, folders of the same name, such as those of two experiments, may be about other questions, and
        must not take each other's outcomes.

        Args:
            digest: `ShardSet.digest` of the questions.
        """
        return self if isinstance(self.store, Path) else replace(self, name=f"{self.name}@{digest[:16]}")

    @property
    def store_has_to_be_named(self) -> bool:
        """Whether only the user can name its store: a database of another machine, or a folder over two levels up."""
        if isinstance(self.store, Path):
            return not self.store.resolve().is_relative_to(self.path.resolve().parent.parent)
        return not is_of_this_machine(self.store)

    @classmethod
    def find(cls, path: Path, store: str | None = None) -> TraceFolder:
        """An existing trace folder, with its store.

        Its run.json may come from somebody else, so it does not decide alone which other machine is connected to, with
        this user's password, nor which of this user's folders far from it are read.

        Args:
            path: The folder.
            store: Its store, as the user has typed it; None for the one that its run.json names.

        Raises:
            AvrtError: If its run.json is damaged, or names a store that only the user can name.
        """
        record = _read(path / RUN) if (path / RUN).is_file() else {}
        if isinstance(record.get("store"), str):
            name = str(record.get("folder", ""))
            if store is not None:
                return cls(path, read_place(store), name)
            place = read_place(record["store"])
            found = path / place if isinstance(place, Path) else place
            folder = cls(path, found, name)
            if folder.store_has_to_be_named:
                where = "far from this folder" if isinstance(found, Path) else "of another machine"
                remedy = f"if you trust it, use avrt traces stats or show with --store {printable(written(found))}"
                raise AvrtError(f"names a store {where}: {printable(written(place))}", where=path / RUN, remedy=remedy)
            return folder
        if store is not None:
            place = read_place(store)
            return cls(path, place, _relative(path, place) if isinstance(place, Path) else "")
        if not (path / SQLITE_FILE).is_file() and (path.parent / SQLITE_FILE).is_file():
            return cls(path, path.parent, path.name)  # a named run that is not finished
        return cls(path, path)

    def rows(self, table: Literal["outcomes", "verdicts"], run: str) -> list[dict[str, Any]]:
        """The rows of one of its runs in a table of the store, in the order of samples or teachers."""
        found = schema.outcomes if table == "outcomes" else schema.verdicts
        order = ("position",) if table == "outcomes" else ("sample", "teacher")
        query = select(found).where(found.c.folder == self.name, found.c.run == run)
        return [dict(row) for row in rows(self.store, query.order_by(*(found.c[name] for name in order)))]

    def run_json(self, run: str, data: str) -> bytes:
        """The content of `run.json` after a run.

        Args:
            run: The run's name.
            data: The shards, kept as an absolute path, so that statistics find them from any working directory.
        """
        store = (_relative(self.store, self.path) or ".") if isinstance(self.store, Path) else written(self.store)
        data = data if is_remote(data) else str(Path(data).absolute())
        record = {"run": run, "data": data, "store": store, "folder": self.name}
        return to_json(record).encode()


def run_record(path: Path, store: str | None = None) -> dict[str, str]:
    """The last finished run of a trace folder: its name (`run`) and its shards (`data`).

    Args:
        path: The folder.
        store: Its store, as for `TraceFolder.find`.

    Raises:
        AvrtError: If there is none.
    """
    folder = TraceFolder.find(path, store)
    require_store(folder.store)
    if not (path / RUN).is_file():
        raise AvrtError("holds no finished run", where=path, remedy="run avrt traces run --out there first")
    record = _read(path / RUN, required=("run", "data"))
    return {"run": record["run"], "data": record["data"]}


def _read(path: Path, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The content of a `run.json`."""
    try:
        record = json.loads(path.read_bytes())
        return {**record, **{name: str(record[name]) for name in required}}
    except (ValueError, TypeError, KeyError):
        raise AvrtError("is damaged", where=path, remedy="repeat the avrt traces run that wrote it") from None


def _relative(path: Path, start: Path) -> str:
    """The path from one folder to another, so that both can be moved together; empty for the same folder."""
    relative = os.path.relpath(path.resolve(), start.resolve())
    return "" if relative == "." else Path(relative).as_posix()
