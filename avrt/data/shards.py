"""Reading shards: any sample of a folder of WebDataset tars, through an index of where its members lie.

A shard is a plain tar that `webdataset` streams as it is. The index beside it, made again from the tar where it is
missing, allows the exact, resumable order that training needs. What the members mean is told by `avrt.data.members`.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from avrt.data.manifest import Manifest
from avrt.data.sample import Sample
from avrt.errors import AvrtError

ShardIndex = list[tuple[str, dict[str, tuple[int, int]]]]


class ShardSet:
    """Random access to the samples of a shard folder, in the order they were written.

    Args:
        folder: A folder with a manifest.

    Raises:
        AvrtError: If the folder holds no shards, or a tar that its manifest names is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = Manifest.load(folder)
        self._members: list[tuple[Path, str, dict[str, tuple[int, int]]]] = []
        for shard in self.manifest.shards:
            path = folder / Path(shard["file"]).name
            if not path.is_file():
                raise AvrtError("a shard that the manifest names is missing", where=path)
            self._members.extend((path, key, members) for key, members in load_index(path))
        self._open: dict[Path, BinaryIO] = {}

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._members)

    def __getstate__(self) -> dict[str, Any]:
        """Drop open files: each worker process opens its own."""
        return {**self.__dict__, "_open": {}}

    def read(self, index: int, only: Collection[str] | None = None) -> dict[str, Any]:
        """The raw members of one sample, as webdataset yields them: ``__key__``, ``__url__`` and extension -> bytes.

        Args:
            index: Which sample.
            only: Extensions to read; None for all but the source media.
        """
        path, key, members = self._members[index]
        if path not in self._open:
            self._open[path] = path.open("rb")
        descriptor = self._open[path].fileno()
        raw: dict[str, Any] = {"__key__": key, "__url__": str(path)}
        for extension, (offset, size) in members.items():
            if extension in only if only is not None else not extension.startswith("original."):
                raw[extension] = os.pread(descriptor, size, offset)
        return raw

    def name(self, index: int) -> str:
        """What one sample goes by in messages: its shard and key."""
        path, key, _ = self._members[index]
        return f"{path}:{key}"

    def sample(self, index: int) -> Sample:
        """One record without its media."""
        return Sample.from_json(self.read(index, ("json",))["json"])

    def samples(self) -> Iterator[Sample]:
        """Every record, in order, without media."""
        return (self.sample(i) for i in range(len(self)))


def index_path(tar: Path) -> Path:
    """Where the index of a tar lies."""
    return tar.with_suffix(".index.json")


def index_tar(path: Path) -> ShardIndex:
    """Where each sample's members lie in a tar: (key, {extension: (offset, size)}) in order."""
    index: ShardIndex = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            key, _, extension = member.name.partition(".")
            if not index or index[-1][0] != key:
                index.append((key, {}))
            index[-1][1][extension] = (member.offset_data, member.size)
    return index


def load_index(path: Path) -> ShardIndex:
    """The index of a tar, from the file beside it or, where there is none, from the tar itself."""
    beside = index_path(path)
    if not beside.is_file():
        return index_tar(path)
    try:
        records = json.loads(beside.read_bytes())
        return [(key, {e: (int(o), int(s)) for e, (o, s) in members.items()}) for key, members in records]
    except (ValueError, TypeError, AttributeError) as error:
        raise AvrtError(f"not a shard index: {error}", where=beside, remedy="delete it; it is made again") from None
