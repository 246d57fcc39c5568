"""Reading shards: any sample of a folder of WebDataset tars, through an index of where its members lie.

A shard is a plain tar, which `webdataset` can also stream. The index beside it (made again from the tar if it is
missing) gives the random access that an exact, resumable order needs. The tars of a remote folder are copied to a local
folder when they are first needed. `avrt.data.shards.members` says what the members mean. Nothing in a shard is trusted:
members are read by offset and size, never unpacked by name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from avrt.data.parts import Parts
from avrt.data.sample import Sample
from avrt.data.shards.manifest import MANIFEST, Manifest
from avrt.data.shards.remote import RemoteFolder, safe_name
from avrt.errors import AvrtError, BadSampleError
from avrt.files import sha256
from avrt.remote.stores import is_remote, shown

MAX_MEMBER_BYTES = 64 << 20
"""Larger members are refused, except the source media that `--keep_original` stores."""
_OPEN_SHARDS = 64
FOR_TEACHERS = "teacher."
"""Names of members that only teachers see begin so."""
_ORIGINAL = "original."

ShardIndex = list[tuple[str, dict[str, tuple[int, int]]]]


class ShardSet:
    """Random access to the samples of a shard folder, in the order they were written.

    Args:
        folder: A folder with a manifest, or the address of one, such as `s3://bucket/shards`.
        cache: Folder for copies of remote shards; by default in the user's cache folder.
        cache_gigabytes: Most that is kept of one remote folder; 0 for everything.

    Attributes:
        digest: Checksum of the manifest, which holds the checksums of all shards.

    Raises:
        AvrtError: If the folder holds no shards, or a tar in its manifest is missing.
    """

    def __init__(self, folder: Path | str, cache: Path | None = None, cache_gigabytes: float = 0.0) -> None:
        if is_remote(folder):
            remote = RemoteFolder(str(folder), cache, cache_gigabytes)
            self.folder = remote.local
            data = remote.read(MANIFEST)
            self.manifest = Manifest.parse(data, f"{shown(str(folder))}/{MANIFEST}")
            self.digest = hashlib.sha256(data).hexdigest()
            self._shards = [self._remote(entry, remote) for entry in self.manifest.shards]
        else:
            self.folder = Path(folder)
            self.manifest = Manifest.load(self.folder)
            self.digest = sha256(self.folder / MANIFEST)
            self._shards = [self._local(entry) for entry in self.manifest.shards]
            for shard in self._shards:
                shard.index()
        self._numbers = Parts(self.shard_sizes)
        self._open: OrderedDict[int, tuple[Path, BinaryIO]] = OrderedDict()

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._numbers)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open files, since each worker process opens its own."""
        return {**self.__dict__, "_open": OrderedDict()}

    @property
    def shard_sizes(self) -> list[int]:
        """Number of samples in each shard."""
        return [shard.samples for shard in self._shards]

    def read(self, index: int, only: Collection[str] | None = None, *, teachers: bool = False) -> dict[str, Any]:
        """The raw members of one sample, as webdataset yields them: ``__key__``, ``__url__`` and extension -> bytes.

        Args:
            index: Which sample.
            only: Extensions to read; None for all but the source media and the members for teachers.
            teachers: Also read the members for teachers.

        Raises:
            BadSampleError: If a member is larger than `MAX_MEMBER_BYTES`.
            AvrtError: If a remote shard cannot be fetched.
        """
        number, key, members = self._locate(index)
        path, file = self._file(number)
        raw: dict[str, Any] = {"__key__": key, "__url__": str(path)}
        unread = (_ORIGINAL,) if teachers else (_ORIGINAL, FOR_TEACHERS)
        for extension, (offset, size) in members.items():
            if extension in only if only is not None else not extension.startswith(unread):
                if size > MAX_MEMBER_BYTES and not extension.startswith(_ORIGINAL):
                    raise BadSampleError(f"member {extension} has {size:,} bytes", where=self.name(index))
                raw[extension] = read_bytes(file, offset, size)
        return raw

    def name(self, index: int) -> str:
        """The name of one sample in messages: its shard and key."""
        number, key, _ = self._locate(index)
        return f"{self._shards[number].path()}:{key}"

    def paths(self) -> Iterator[Path]:
        """The file of each shard, in order; those of a remote folder are copied first and checked."""
        return (shard.path() for shard in self._shards)

    def prefetch(self, index: int) -> None:
        """Start to copy the shard of a sample in the background, if it is remote."""
        self._shards[self._numbers.locate(index)[0]].prefetch()

    def sample(self, index: int) -> Sample:
        """One record without its media."""
        return Sample.from_json(self.read(index, ("json",))["json"])

    def samples(self) -> Iterator[Sample]:
        """Every record, in order, without media."""
        return (self.sample(i) for i in range(len(self)))

    def _locate(self, index: int) -> tuple[int, str, dict[str, tuple[int, int]]]:
        """The shard of a sample, its key, and where its members lie."""
        number, place = self._numbers.locate(index)
        return number, *self._shards[number].index()[place]

    def _file(self, number: int) -> tuple[Path, BinaryIO]:
        """A shard's open file; the files used longest ago are closed."""
        if number not in self._open:
            path = self._shards[number].path()
            self._open[number] = (path, path.open("rb"))
            while len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)[1][1].close()
        self._open.move_to_end(number)
        return self._open[number]

    def _local(self, entry: dict[str, Any]) -> _Shard:
        path = self.folder / safe_name(entry["file"], self.folder / MANIFEST)
        if not path.is_file():
            raise AvrtError(
                "a shard that the manifest names is missing", where=path, remedy="copy or make the shards again"
            )
        return _Shard(int(entry["samples"]), lambda: path, indexed=True)

    def _remote(self, entry: dict[str, Any], remote: RemoteFolder) -> _Shard:
        name = safe_name(entry["file"], f"{shown(remote.address)}/{MANIFEST}")
        file = (name, int(entry["bytes"]), str(entry["sha256"]))
        prefetch = functools.partial(remote.prefetch, *file)
        return _Shard(int(entry["samples"]), functools.partial(remote.fetch, *file), prefetch=prefetch)


class _Shard:
    """One tar: its number of samples, its path, and its index, which is read when it is first needed."""

    def __init__(
        self,
        samples: int,
        path: Callable[[], Path],
        *,
        indexed: bool = False,
        prefetch: Callable[[], None] = lambda: None,
    ) -> None:
        self.samples = samples
        self.path = path
        self.prefetch = prefetch
        self._indexed = indexed
        self._index: ShardIndex | None = None

    def index(self) -> ShardIndex:
        if self._index is None:
            path = self.path()
            self._index = load_index(path) if self._indexed else index_tar(path)
            if len(self._index) != self.samples:
                raise AvrtError(f"holds {len(self._index)} samples, the manifest says {self.samples}", where=path)
        return self._index


def read_bytes(file: BinaryIO, offset: int, size: int) -> bytes:
    """Bytes of an open file; one call of the system reads at most 2 GiB, and source media may be larger.

    Raises:
        AvrtError: If the file ends before.
    """
    pieces: list[bytes] = []
    left = size
    while left:
        pieces.append(os.pread(file.fileno(), left, offset + size - left))
        left -= len(pieces[-1])
        if not pieces[-1]:
            what = f"ends {left:,} bytes before its index says"
            raise AvrtError(what, where=file.name, remedy="copy or make the shards again")
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def index_path(tar: Path) -> Path:
    """The path of a tar's index."""
    return tar.with_suffix(".index.json")


def index_tar(path: Path) -> ShardIndex:
    """Where each sample's members lie in a tar: (key, {extension: (offset, size)}) in order.

    Raises:
        AvrtError: If it is not a complete tar.
    """
    index: ShardIndex = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.issparse():
                    continue
                key, _, extension = member.name.partition(".")
                if not index or index[-1][0] != key:
                    index.append((key, {}))
                index[-1][1][extension] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise AvrtError(f"not a tar: {error}", where=path, remedy="make the shards again") from None
    _check(index, path, path)
    return index


def load_index(path: Path) -> ShardIndex:
    """The index of a tar, from the file beside it, or from the tar itself if there is no such file.

    Raises:
        AvrtError: If the index is damaged or does not fit the tar.
    """
    beside = index_path(path)
    if not beside.is_file():
        return index_tar(path)
    try:
        records = json.loads(beside.read_bytes())
        index = [(str(key), {str(e): (int(o), int(s)) for e, (o, s) in members.items()}) for key, members in records]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise AvrtError(f"not a shard index: {error}", where=beside, remedy="delete it; it is made again") from None
    _check(index, path, beside)
    return index


def records_of(tar: Path) -> Iterator[Sample]:
    """Every record of one tar, in order."""
    with tar.open("rb") as file:
        for _, members in load_index(tar):
            offset, size = members["json"]
            yield Sample.from_json(read_bytes(file, offset, size))


def _check(index: ShardIndex, tar: Path, where: Path) -> None:
    """Refuse members that lie outside of the tar, since a reader would allocate the size that they claim."""
    end = tar.stat().st_size
    for key, members in index:
        for extension, (offset, size) in members.items():
            if offset < 0 or size < 0 or offset + size > end:
                raise AvrtError(f"member {key}.{extension} lies outside of the shard", where=where)
