"""One file copied from an address: with retries, continued where a transfer broke off, never more than was expected."""

from __future__ import annotations

import logging
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from avrt.errors import AvrtError
from avrt.remote.stores import is_final, is_http, one_line, refused, shown, store

ATTEMPTS = 8
"""Failures in a row, without a new byte, after which copying a file fails."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 20.0
_TIMEOUT = 60.0
_CHUNK = 1 << 20
_RANGE = 16 << 20
"""In bytes: what is asked of a store at once, and what a broken transfer loses at most."""

log = logging.getLogger(__name__)


def copy_file(address: str, partial: Path, size: int | None, most: int, attempts: int = ATTEMPTS) -> None:
    """Copy a file, with retries; a partial copy is continued if the address allows it.

    Args:
        address: The file's address.
        partial: Where to; what is there already is taken for the file's beginning.
        size: Its size in bytes, where it is known.
        most: Most bytes that are taken, so that no server can fill the disk.
        attempts: Failures in a row after which copying fails.

    Raises:
        AvrtError: If it cannot be fetched, or is larger.
    """
    failures, transfer = 0, _by_http if is_http(address) else _by_ranges
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            transfer(address, partial, size, most)
            have = partial.stat().st_size
            if size is None or have == size:
                return
            reason = f"{have:,} of {size:,} bytes arrived"
        except AvrtError:
            raise
        except Exception as error:  # each kind of address raises its own errors, and a retry may help
            if is_final(error):
                raise refused(error, address) from None
            if isinstance(error, urllib.error.HTTPError) and error.code == 416:
                partial.unlink(missing_ok=True)
            kind = "" if isinstance(error, urllib.error.HTTPError) else f"{type(error).__name__}: "
            reason = kind + one_line(error, address)
        gained = partial.exists() and partial.stat().st_size > before
        failures = 1 if gained else failures + 1
        if failures >= attempts:
            raise AvrtError(
                f"cannot be fetched after {failures} attempts: {reason}",
                where=shown(address),
                remedy="check the address, then resume with --ckpt_path last",
            )
        log.info("%s: %s; retrying", shown(address), reason)
        time.sleep(pause(failures))


def pause(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (failures - 1))


def _by_http(address: str, partial: Path, size: int | None, most: int) -> None:
    """Make one attempt by http; it stops at the first excess byte."""
    have = partial.stat().st_size if partial.exists() else 0
    if size is not None and have == size:
        return
    if have > most:  # from when the address held another file
        partial.unlink()
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT) as answer:
        goes_on = answer.status == 206 and have > 0
        expected = answer.length
        with partial.open("ab" if goes_on else "wb") as file:
            _pour(answer, file, most - (have if goes_on else 0), address)
    arrived = partial.stat().st_size - (have if goes_on else 0)
    if expected is not None and arrived < expected:
        raise ConnectionError(f"broken off after {arrived:,} of {expected:,} bytes")


def _pour(source: Any, file: BinaryIO, most: int, address: str) -> None:
    """Copy a stream of at most `most` bytes."""
    while chunk := source.read(_CHUNK):
        most -= len(chunk)
        if most < 0:
            raise _too_large(address)
        file.write(chunk)


def _by_ranges(address: str, partial: Path, size: int | None, most: int) -> None:
    """Make one attempt through fsspec, one range after the other."""
    fs, path = store(address)
    fs.invalidate_cache()  # what it remembers of the file's size may be old
    told = fs.info(path)
    if told.get("type") == "directory":
        raise FileNotFoundError(path)
    if (there := told.get("size")) is None:
        raise AvrtError("has no size", where=shown(address), remedy="name a file of a store that knows sizes")
    if int(there) > most:
        raise _too_large(address)
    if size is not None and int(there) != size:
        raise AvrtError(f"has {int(there):,} bytes instead of {size:,}: it was changed", where=shown(address))
    have = partial.stat().st_size if partial.exists() else 0
    if have > there:
        partial.unlink()
        have = 0
    with partial.open("ab") as file:
        while have < there:
            end = min(have + _RANGE, there)
            data = fs.cat_file(path, start=have, end=end)[: end - have]
            if not data:
                raise ConnectionError(f"broken off after {have:,} of {there:,} bytes")
            file.write(data)
            have += len(data)


def _too_large(address: str) -> AvrtError:
    return AvrtError("holds more bytes than expected", where=shown(address), remedy="make or copy the shards again")
