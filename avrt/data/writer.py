"""Writing shards: samples with their ready members packed into WebDataset tars with indexes and a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avrt.data.manifest import MANIFEST, UNTYPED, Manifest, sha256, write_whole
from avrt.data.sample import Sample
from avrt.data.shards import index_path, index_tar
from avrt.errors import AvrtError, BadSampleError


class ShardWriter:
    """Write samples into tars of at most `samples_per_shard` each; a context manager.

    Tars and indexes appear under their final names only when complete. The bytes depend on the samples alone.

    Args:
        folder: Where to; created if missing, and it must not hold a manifest already.
        spec: How the clips were taken from their files (a `ClipSpec` as a dictionary); recorded in the manifest.
        recipe: Recorded in the manifest.
        samples_per_shard: Size of a shard.

    Raises:
        AvrtError: If the folder already holds shards.
    """

    def __init__(
        self,
        folder: Path,
        spec: Mapping[str, Any],
        recipe: Mapping[str, Any] | None = None,
        samples_per_shard: int = 256,
    ) -> None:
        if (folder / MANIFEST).exists():
            raise AvrtError("already holds shards", where=folder, remedy="choose another --out or delete it")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.manifest = Manifest(recipe=dict(recipe or {}), spec=dict(spec))
        self._limit = samples_per_shard
        self._pending: list[dict[str, Any]] = []
        self._seen: set[str] = set()

    def __enter__(self) -> ShardWriter:
        """Start writing."""
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Close the last shard and write the manifest, unless an error is on its way out."""
        if failed is None:
            self._flush()
            self.manifest.save(self.folder)

    def write(self, sample: Sample, members: Mapping[str, bytes], notes: Sequence[str] = ()) -> None:
        """Add one sample.

        Args:
            sample: The record.
            members: Everything else of it by extension, as `encode_clip` makes it or `ShardSet.read` finds it.
            notes: What had to be worked around, for the manifest.

        Raises:
            BadSampleError: If the id was written before.
        """
        if sample.id in self._seen:
            raise BadSampleError("sample id occurs twice", where=sample.id)
        key = f"{self.manifest.samples + len(self._pending):08d}"
        self._seen.add(sample.id)
        self._pending.append({"__key__": key, **members, "json": sample.to_json()})
        counts = self.manifest.counts
        for m in sample.media:
            counts[str(m)] = counts.get(str(m), 0) + 1
        kinds = self.manifest.question_types
        kind = sample.question_type or UNTYPED
        kinds[kind] = kinds.get(kind, 0) + 1
        if notes:
            self.manifest.notes[sample.id] = list(notes)
        if len(self._pending) >= self._limit:
            self._flush()

    def skip(self, name: str, reason: str) -> None:
        """Record that a sample or file was left out, and why."""
        self.manifest.skipped[name] = reason

    def _flush(self) -> None:
        if not self._pending:
            return
        path = self.folder / f"shard-{len(self.manifest.shards):06d}.tar"
        import webdataset  # it imports torch, which readers and writers of mere bytes do without until here

        partial = path.with_suffix(".tar.partial")
        with partial.open("wb") as stream, webdataset.TarWriter(stream, encoder=False, mtime=0) as tar:
            for members in self._pending:
                tar.write(members)
        partial.replace(path)
        index = index_tar(path)
        write_whole(index_path(path), json.dumps(index).encode())
        self.manifest.shards.append(
            {"file": path.name, "samples": len(index), "bytes": path.stat().st_size, "sha256": sha256(path)}
        )
        self._pending = []
