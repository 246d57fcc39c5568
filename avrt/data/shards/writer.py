"""Writing shards: samples and their members packed into WebDataset tars, with indexes and a manifest.

A journal records every finished shard, so that writing can be resumed after any interruption.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from avrt.data.sample import Sample
from avrt.data.shards.manifest import JOURNAL, MANIFEST, Manifest
from avrt.data.shards.reader import index_path, index_tar, records_of
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256, write_whole
from avrt.text import clean, clean_all


class ShardWriter:
    """Write samples into tars of at most `samples_per_shard` each; a context manager.

    Tars and indexes get their final names only when they are complete. Equal samples give equal bytes.

    Args:
        folder: Folder of the shards; created if missing. It must not hold a manifest.
        spec: What was taken from the clips (a `ClipSpec` as a dictionary); recorded in the manifest.
        recipe: Recorded in the manifest.
        samples_per_shard: Size of a shard.
        resume: Continue after the last finished shard of an earlier writer with the same arguments.

    Attributes:
        manifest: What has been written so far.
        consumed: Number of calls of `write` and `skip` so far, those of the resumed writer included.

    Raises:
        AvrtError: If the folder holds shards, or unfinished shards that are not or cannot be resumed, or if another
            process writes there.
    """

    def __init__(
        self,
        folder: Path,
        spec: Mapping[str, Any],
        recipe: Mapping[str, Any] | None = None,
        samples_per_shard: int = 256,
        resume: bool = False,
    ) -> None:
        if (folder / MANIFEST).exists():
            raise AvrtError("already holds shards", where=folder, remedy="choose another --out or delete the folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.manifest = Manifest(recipe=clean_all(recipe or {}), spec=dict(spec), labels={"answer": 0, "trace": 0})
        self.consumed = 0
        self._limit = samples_per_shard
        self._shard: _OpenShard | None = None
        self._seen: set[str] = set()
        self._skips: dict[str, int] = {}
        self._journaled = Manifest()
        self._journal = self._open_journal(resume)

    def __enter__(self) -> ShardWriter:
        """Start writing."""
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Close the last shard and write the manifest; after an error, keep the journal for a resumed writer."""
        try:
            if failed is None:
                self._flush()
                self.manifest.save(self.folder)
                (self.folder / JOURNAL).unlink()
            elif self._shard is not None:
                self._shard.discard()
        finally:
            self._journal.close()

    def write(self, sample: Sample, members: Mapping[str, bytes], notes: Sequence[str] = ()) -> None:
        """Add one sample.

        Args:
            sample: The record.
            members: All other members by extension, from `encode_clip` or `ShardSet.read`.
            notes: What was repaired, for the manifest.

        Raises:
            BadSampleError: If the id was written before.
        """
        if sample.id in self._seen:
            raise BadSampleError("sample id occurs twice", where=sample.id)
        if self._shard is None:
            self._shard = _OpenShard(self.folder / f"shard-{len(self.manifest.shards):06d}.tar")
        key = f"{self.manifest.samples + self._shard.samples:08d}"
        self._shard.write({"__key__": key, **members, "json": sample.to_json()})
        self._seen.add(sample.id)
        self.consumed += 1
        self.manifest.add(sample)
        if notes:
            self.manifest.notes[sample.id] = clean_all(list(notes))
        if self._shard.samples >= self._limit:
            self._flush()

    def skip(self, name: str, reason: str) -> None:
        """Record that a sample or file was left out, and why."""
        name = first = clean(name)
        number = self._skips.get(first, 1)
        while name in self.manifest.skipped:
            number += 1
            name = f"{first} ({number})"
        self._skips[first] = number
        self.manifest.skipped[name] = clean(reason)
        self.consumed += 1

    def _flush(self) -> None:
        """Finish the open shard and record it in the journal."""
        if self._shard is None:
            return
        self.manifest.shards.append(self._shard.finish())
        self._shard = None
        entry = {"consumed": self.consumed, "shard": self.manifest.shards[-1], **self._news()}
        self._journal.write(json.dumps(entry).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _news(self) -> dict[str, Any]:
        """What is new in the manifest since the last shard: all counts, and the names that were added."""
        old, now = self._journaled, self.manifest
        skipped = {name: why for name, why in now.skipped.items() if old.skipped.get(name) != why}
        notes = {name: told for name, told in now.notes.items() if name not in old.notes}
        old.skipped.update(skipped)
        old.notes.update(notes)
        return {"counts": now.counts, "question_types": now.question_types, "skipped": skipped, "notes": notes}

    def _open_journal(self, resume: bool) -> BinaryIO:
        """Lock the journal and take up what it records, or begin a new one."""
        path = self.folder / JOURNAL
        journal = path.open("a+b")
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            journal.close()
            raise AvrtError(
                "another process is writing shards there", where=self.folder, remedy="wait for it"
            ) from None
        header = {"recipe": self.manifest.recipe, "spec": self.manifest.spec, "samples_per_shard": self._limit}
        lines = path.read_bytes().split(b"\n")[:-1]  # the last line is complete only if it has an end
        if len(lines) < 2:
            lines = []  # no shard was finished
        if lines and not resume:
            journal.close()
            raise AvrtError("holds unfinished shards", where=self.folder, remedy="add --resume or delete the folder")
        if lines:
            self._check_header(lines[0], header, path)
            self._take_up([json.loads(line) for line in lines[1:]])
            journal.truncate(sum(len(line) + 1 for line in lines))
        else:
            journal.truncate(0)
            journal.write(json.dumps(header).encode() + b"\n")
            journal.flush()
        return journal

    def _check_header(self, line: bytes, header: dict[str, Any], path: Path) -> None:
        """Refuse to resume with other arguments."""
        begun = json.loads(line)
        now = json.loads(json.dumps(header))
        for part in header:
            if begun[part] != now[part]:
                raise AvrtError(
                    f"was begun with {part} {begun[part]}, not {now[part]}",
                    where=path.parent,
                    remedy="resume with the same arguments or delete the folder",
                )

    def _take_up(self, entries: list[dict[str, Any]]) -> None:
        """Restore the state after the journal's last shard."""
        for entry in entries:
            shard = entry["shard"]
            path = self.folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise AvrtError("a finished shard is missing or was changed", where=path, remedy="delete the folder")
            for sample in records_of(path):
                self._seen.add(sample.id)
                self.manifest.add_labels(sample)
            self.manifest.shards.append(shard)
            self.manifest.counts, self.manifest.question_types = entry["counts"], entry["question_types"]
            self.manifest.skipped.update(entry["skipped"])
            self.manifest.notes.update(entry["notes"])
            self.consumed = entry["consumed"]
        self._journaled.skipped.update(self.manifest.skipped)
        self._journaled.notes.update(self.manifest.notes)


class _OpenShard:
    """The tar that is being written, under a temporary name."""

    def __init__(self, path: Path) -> None:
        import webdataset  # imported late, since it imports torch

        self.samples = 0
        self._path = path
        self._partial = path.with_suffix(".tar.partial")
        self._stream = self._partial.open("wb")
        self._tar = webdataset.TarWriter(self._stream, encoder=False, mtime=0)

    def write(self, members: Mapping[str, Any]) -> None:
        """Add one sample's members."""
        self._tar.write(members)
        self.samples += 1

    def finish(self) -> dict[str, Any]:
        """Complete the tar and its index; returns the shard's entry in the manifest."""
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        index = index_tar(self._partial)
        entry = {
            "file": self._path.name,
            "samples": len(index),
            "bytes": self._partial.stat().st_size,
            "sha256": sha256(self._partial),
        }
        write_whole(index_path(self._path), json.dumps(index).encode())
        self._partial.replace(self._path)
        return entry

    def discard(self) -> None:
        """Delete it, even if closing fails because the disk is full."""
        for end in (self._tar.close, self._stream.close):
            with contextlib.suppress(OSError, ValueError):
                end()
        self._partial.unlink(missing_ok=True)
