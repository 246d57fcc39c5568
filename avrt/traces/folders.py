"""Where a run's exports lie and which store serves them: one store of calls may serve several trace folders."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.text import to_json
from avrt.traces.store import FILE

RUN = "run.json"
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
_TAKEN = ("shards", "labelled", "owners")


@dataclass(frozen=True)
class TraceFolder:
    """A trace folder: what one run exports.

    Attributes:
        path: Where the exports lie.
        store: The folder of the store with the calls.
        name: What the trace folder is called in the store; empty for the store's own folder.
    """

    path: Path
    store: Path
    name: str = ""

    @classmethod
    def of_run(cls, out: str, name: str | None = None, store: str | None = None) -> TraceFolder:
        """The folder that a run writes to.

        Args:
            out: Where all runs of one experiment lie.
            name: The folder of this one below it; None for `out` itself.
            store: Where the calls are kept; None for `out`.

        Raises:
            AvrtError: If the name cannot be used.
        """
        if name is not None and (not _NAME.fullmatch(name) or name in _TAKEN):
            remedy = f"letters, digits, _, - and dots; not {', '.join(_TAKEN)}"
            raise AvrtError(f"{name!r} cannot be the name of a folder of traces", where="name", remedy=remedy)
        path = Path(out) if name is None else Path(out, name)
        kept = Path(out if store is None else store)
        return cls(path, kept, _relative(path, kept))

    @classmethod
    def find(cls, path: Path) -> TraceFolder:
        """A trace folder that is there, with its store.

        Raises:
            AvrtError: If there is no store for it.
        """
        record = _read(path / RUN) if (path / RUN).is_file() else {}
        if isinstance(record.get("store"), str):
            return cls(path, path / record["store"], str(record.get("folder", "")))
        if not (path / FILE).is_file() and (path.parent / FILE).is_file():
            return cls(path, path.parent, path.name)  # a named run that has not been finished
        return cls(path, path)

    def finished(self, run: str, data: str) -> bytes:
        """What `run.json` says when a run is through.

        Args:
            run: The run's name.
            data: The shards; kept as a whole path, so that statistics find them from whatever folder they are asked in.
        """
        store = _relative(self.store, self.path) or "."
        record = {"run": run, "data": str(Path(data).absolute()), "store": store, "folder": self.name}
        return to_json(record).encode()


def run_record(path: Path) -> dict[str, str]:
    """The run that was finished last in a trace folder: its name (`run`) and its shards (`data`).

    Raises:
        AvrtError: If there is none.
    """
    folder = TraceFolder.find(path)
    if not (folder.store / FILE).is_file():
        raise AvrtError("holds no traces", where=folder.store, remedy="run avrt traces run --out there first")
    if not (path / RUN).is_file():
        raise AvrtError("no run has been finished here", where=path, remedy="avrt traces run --out there")
    record = _read(path / RUN)
    try:
        return {"run": str(record["run"]), "data": str(record["data"])}
    except KeyError:
        raise _damaged(path / RUN) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except ValueError:
        raise _damaged(path) from None
    if not isinstance(record, dict):
        raise _damaged(path)
    return record


def _damaged(path: Path) -> AvrtError:
    return AvrtError("is damaged", where=path, remedy="run the same avrt traces run once more")


def _relative(path: Path, start: Path) -> str:
    """One folder as seen from another, so that both may be moved together; empty for the same."""
    seen = os.path.relpath(path.resolve(), start.resolve())
    return "" if seen == "." else Path(seen).as_posix()
