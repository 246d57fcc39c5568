"""Models at addresses: copied to the user's cache once, whole or not at all, and again when they have changed."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from avrt.errors import AvrtError
from avrt.files import locked, user_cache, write_whole
from avrt.remote.copies import copy_file
from avrt.remote.stores import is_final, is_http, one_line, refused, shown, store

LATEST = "latest.json"
"""In a model's folder of the cache: which copy is the newest, for when the store cannot be reached."""
_KINDS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")
"""What a model's folder holds that is read here; others, such as pickled weights, are not copied."""
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_AT_ONCE = 4
_in_use: list[IO[str]] = []  # locks on the copies that this process reads, held until it ends

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFile:
    """A file of a model at an address.

    Attributes:
        name: Its path below the model's folder.
        size: Its size in bytes.
        version: What changes when it does: its etag, else its time.
    """

    name: str
    size: int
    version: str


@functools.cache
def fetch_model(address: str) -> Path:
    """The folder of a model's copy, which is made if there is none of what the address holds now.

    A process asks once and keeps to its answer. Several processes share a copy, which one of them makes.

    Args:
        address: The model's folder: `s3://bucket/model`.

    Raises:
        AvrtError: If there is no model, or it cannot be fetched.
    """
    address = address.rstrip("/")
    home = user_cache("models") / hashlib.sha256(address.encode()).hexdigest()[:16]
    home.mkdir(parents=True, exist_ok=True)
    with locked(home / "fetch.lock"):
        return _fetch(address, home)


def _fetch(address: str, home: Path) -> Path:
    """Fetch a model whose folder in the cache is locked."""
    for _ in range(2):
        try:
            files = list_model(address)
        except (AvrtError, OSError) as error:
            return _without_store(address, home, error)
        version = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
        copy = home / version
        if not copy.is_dir():
            partial = home / f"{version}.partial"
            _copy_all(address, files, partial)
            if list_model(address) != files:
                log.warning("%s changed while it was copied; it is copied again", shown(address))
                shutil.rmtree(partial)
                continue
            partial.rename(copy)
        write_whole(home / LATEST, json.dumps({"address": shown(address), "version": version}).encode())
        _use(copy)
        _delete_others(home, version)
        return copy
    raise AvrtError("changes while it is copied", where=shown(address), remedy="wait until it is written")


def list_model(address: str) -> list[ModelFile]:
    """The files of a model at an address that are read, by name.

    Raises:
        AvrtError: If it holds no model, or the store refuses.
        ConnectionError: If the store cannot be reached.
    """
    if is_http(address):
        what = "models are read from stores that list their files, not by http"
        raise AvrtError(what, where=shown(address), remedy="copy it to a folder, or to s3://, gs://, hf:// ...")
    fs, path = store(address)
    try:
        fs.invalidate_cache()
        found = fs.find(path, detail=True)
    except Exception as error:  # each kind of store raises its own
        if is_final(error):
            raise refused(error, address) from None
        raise ConnectionError(one_line(error, address)) from None
    prefix = path.rstrip("/") + "/"
    files = []
    for name, told in sorted(found.items()):
        below = name.removeprefix(prefix)
        if name.startswith(prefix) and below.endswith(_KINDS) and all(map(_PART.fullmatch, below.split("/"))):
            files.append(ModelFile(below, int(told["size"]), version_of(told)))
    names = {file.name for file in files}
    if "config.json" not in names or not any("/" not in n and n.endswith(".safetensors") for n in names):
        what = "holds no model: config.json and *.safetensors" if files else "holds no model: there are no files"
        raise AvrtError(what, where=shown(address), remedy="check the address; avrt export --out ADDRESS writes one")
    return files


def version_of(told: Mapping[str, Any]) -> str:
    """What a store says that changes when a file does."""
    names = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "LastModified", "last_modified", "mtime", "created")
    said = (str(told[name]).strip('"') for name in names if told.get(name))
    return next(filter(None, said), "")  # a server without etags may say `""`


def _copy_all(address: str, files: list[ModelFile], partial: Path) -> None:
    """Copy files into a folder; what an earlier attempt left there is continued."""

    def copy(file: ModelFile) -> None:
        place = partial / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        copy_file(f"{address}/{file.name}", place, file.size, file.size)

    log.warning("%s: copying %.1f GB to %s", shown(address), sum(f.size for f in files) / 1e9, partial.parent)
    partial.mkdir(exist_ok=True)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(copy, files))


def _without_store(address: str, home: Path, error: Exception) -> Path:
    """The newest copy, where the store cannot be reached; else the error of the store."""
    if isinstance(error, AvrtError):
        raise error
    with suppress(OSError, ValueError, KeyError, TypeError):
        copy = home / str(json.loads((home / LATEST).read_bytes())["version"])
        if copy.is_dir() and copy.parent == home:
            log.warning("%s cannot be reached (%s): the last copy is used, %s", shown(address), error, copy)
            _use(copy)
            return copy
    what = f"cannot be reached, and there is no copy of it: {error}"
    raise AvrtError(what, where=shown(address), remedy="check the address and the connection")


def _use(copy: Path) -> None:
    """Lock a copy against deletion while this process lives."""
    lock = copy.with_suffix(".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_SH)
    _in_use.append(lock)


def _delete_others(home: Path, version: str) -> None:
    """Delete copies of what the model was before, but for those that a process reads."""
    for old in home.iterdir():
        if not old.is_dir() or old.stem == version:
            continue
        with suppress(BlockingIOError), locked(old.with_suffix(".lock"), wait=False):
            shutil.rmtree(old, ignore_errors=True)
