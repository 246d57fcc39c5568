"""Folders written to addresses: made on this machine, then uploaded, the file that makes them whole last."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError
from avrt.files import user_cache
from avrt.remote.copies import ATTEMPTS, pause
from avrt.remote.models import version_of
from avrt.remote.stores import is_final, is_http, is_remote, one_line, refused, shown, store

PROBE = "upload.started"
"""An object that shows at the start that the store can be written to; it is deleted at once."""
_AT_ONCE = 4

log = logging.getLogger(__name__)


class Destination:
    """Where a command writes shards: a folder, or an address with a folder in the user's cache that is uploaded to it.

    The folder in the cache stays until all of it is uploaded, so that a command that was stopped can be resumed.

    Args:
        out: The folder or the address.
        last: The file without which a reader finds nothing, such as the manifest.

    Attributes:
        address: The folder or the address.
        name: The same for messages.
        folder: The folder that is written to.
    """

    def __init__(self, out: str, last: str) -> None:
        self.address, self._last = out.rstrip("/") if is_remote(out) else out, last
        self.remote = is_remote(out)
        self.name = shown(self.address) if self.remote else out
        self.folder = _staging(self.address) if self.remote else Path(out)

    def below(self, part: str) -> Destination:
        """A folder in this one."""
        return Destination(f"{self.address}/{part}" if self.remote else str(Path(self.address, part)), self._last)

    def is_uploaded(self) -> bool:
        """Whether it is an address that holds everything already.

        Raises:
            AvrtError: If the store refuses.
        """
        return self.remote and _is_there(f"{self.address}/{self._last}")

    def check(self) -> None:
        """See, before work begins, that an address can be written to and holds nothing yet.

        Raises:
            AvrtError: If it cannot, or does.
        """
        if self.remote:
            check_target(self.address, self._last)

    def upload(self) -> None:
        """Upload the folder, if it is for an address, and delete it.

        Raises:
            AvrtError: If that fails; the folder stays.
        """
        if self.remote:
            upload_folder(self.folder, self.address, self._last)
            shutil.rmtree(self.folder)


@contextmanager
def folder_for(out: str | Path, last: str) -> Iterator[Path]:
    """A folder to write into: the one that is named, or, for an address, a new one that is uploaded at the end.

    Args:
        out: The folder or the address.
        last: The file without which a reader finds nothing, such as a model's `config.json`.

    Raises:
        AvrtError: If the address holds that file already, or cannot be written to.
    """
    if not is_remote(out):
        yield Path(out)
        return
    check_target(str(out), last)
    _staging_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=_staging_root()) as folder:
        yield Path(folder)
        upload_folder(Path(folder), str(out), last)


def check_target(address: str, last: str) -> None:
    """See that an address can be written to and does not hold a file yet.

    Raises:
        AvrtError: If it holds it, or the store refuses.
    """
    address = address.rstrip("/")
    if is_http(address):
        remedy = "write to a folder, or to s3://, gs://, az:// ..."
        raise AvrtError("cannot be written to by http", where=shown(address), remedy=remedy)
    if _is_there(f"{address}/{last}"):
        raise AvrtError(f"holds {last} already", where=shown(address), remedy="choose another --out or delete it")
    fs, path = store(f"{address}/{PROBE}")
    try:
        if _has_folders(fs):
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, b"avrt")
    except Exception as error:  # each kind of store raises its own
        raise _cannot_write(error, address) from None
    with suppress(Exception):  # a store may let write and not delete
        fs.rm_file(path)


def upload_folder(folder: Path, address: str, last: str) -> None:
    """Upload the files of a folder, hidden and unfinished ones left out; what an earlier call uploaded is not repeated.

    Args:
        folder: The folder.
        address: Where to.
        last: The file that is uploaded when all others are there, so that a reader finds all or nothing.

    Raises:
        AvrtError: If the folder lacks the last file, or the store refuses.
    """
    address = address.rstrip("/")
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for name in names if not name.startswith(".") and "/." not in name]
    names = [name for name in names if not name.endswith((".partial", ".lock"))]
    if last not in names:
        raise AvrtError(f"holds no {last}", where=folder, remedy="nothing is uploaded before it is finished")
    done = _Uploaded(address)
    size = sum((folder / name).stat().st_size for name in names)
    log.warning("uploading %d files, %.2f GB, to %s", len(names), size / 1e9, shown(address))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda name: done.upload(folder, name), [name for name in names if name != last]))
    done.upload(folder, last)
    done.forget()


class _Uploaded:
    """What has been uploaded to an address, kept on this machine until all of it is."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._path = _staging(address).with_suffix(".jsonl")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._known: dict[str, list[Any]] = {}
        with suppress(OSError, ValueError):
            self._known = dict(json.loads(line) for line in self._path.read_text().splitlines())

    def upload(self, folder: Path, name: str) -> None:
        """Upload one file, unless it is there as an earlier call left it."""
        address, path = f"{self._address}/{name}", folder / name
        told = path.stat()
        local = [told.st_size, told.st_mtime_ns]
        if name in self._known and self._known[name] == [*local, _version(address)]:
            return
        version = _put(path, address)
        with self._lock, self._path.open("a") as stream:
            stream.write(json.dumps([name, [*local, version]]) + "\n")

    def forget(self) -> None:
        """Forget everything, since it is all there."""
        self._path.unlink(missing_ok=True)


def _put(path: Path, address: str) -> str:
    """Upload one file, with retries; its version in the store."""
    for failures in range(1, ATTEMPTS + 1):
        fs, place = store(address)
        try:
            if _has_folders(fs):
                fs.makedirs(place.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(path), place)
            fs.invalidate_cache()
            told = fs.info(place)
            have, size = int(told["size"]), path.stat().st_size
            if have == size:
                return version_of(told)
            reason = f"{have:,} of {size:,} bytes are there"
        except Exception as error:  # each kind of store raises its own errors, and a retry may help
            if is_final(error):
                raise _cannot_write(error, address) from None
            reason = f"{type(error).__name__}: {one_line(error, address)}"
        log.info("%s: %s; retrying", shown(address), reason)
        time.sleep(pause(failures))
    what = f"cannot be uploaded after {ATTEMPTS} attempts: {reason}"
    raise AvrtError(what, where=shown(address), remedy="repeat the command; what is there is not uploaded again")


def _is_there(address: str) -> bool:
    return _version(address) is not None


def _version(address: str) -> str | None:
    """What a store says that changes when a file does; None if there is none.

    Raises:
        AvrtError: If the store refuses.
    """
    fs, path = store(address)
    try:
        fs.invalidate_cache()
        return version_of(fs.info(path))
    except FileNotFoundError:
        return None
    except Exception as error:  # each kind of store raises its own
        raise refused(error, address) from None


def _cannot_write(error: Exception, address: str) -> AvrtError:
    told = refused(error, address)
    return AvrtError(f"cannot be written to: {one_line(error, address)}", where=shown(address), remedy=told.remedy)


def _has_folders(fs: Any) -> bool:
    """Whether a store has folders that must be made; in buckets, making one could make a bucket."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    return bool(protocols & {"file", "local", "memory", "sftp", "ssh", "ftp", "smb"})


def _staging_root() -> Path:
    return user_cache("uploads")


def _staging(address: str) -> Path:
    """The folder where what is uploaded to an address is made."""
    return _staging_root() / hashlib.sha256(address.encode()).hexdigest()[:16]
