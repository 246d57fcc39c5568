"""Addresses of files (`s3://bucket/shards`, `https://host/shards`), and the file systems of fsspec behind them.

Credentials and options are those of the file system: its environment variables and profiles, `FSSPEC_S3_ENDPOINT_URL`
and its like, and the files in `~/.config/fsspec`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from avrt.errors import AvrtError

_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_USER = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")
_LONGEST_REASON = 300
INSTALL = {
    **dict.fromkeys(("s3", "s3a"), "pip install 'avrt[s3]'"),
    **dict.fromkeys(("gs", "gcs"), "pip install gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "pip install adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "pip install paramiko"),
    "hf": "pip install 'avrt[hub]'",
}
"""What to install for the addresses of a protocol."""
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
_REFUSED = (400, 401, 403, 404, 405, 410, 414)


def is_remote(folder: Path | str) -> bool:
    """Whether a folder is an address rather than a path."""
    return isinstance(folder, str) and _ADDRESS.match(folder) is not None


def is_http(address: str) -> bool:
    """Whether an address is read by http or https."""
    return address.startswith(("http://", "https://"))


def shown(address: str) -> str:
    """An address as messages show it: without a password, and without the query, which may be a signature."""
    return _USER.sub(r"\1:***@", address).partition("?")[0]


def store(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path on it.

    It is asked for anew for each use: fsspec keeps one for each process, and a fork must not use its parent's.

    Raises:
        AvrtError: If fsspec has none, its package is not installed, or the address would run a command.
    """
    import fsspec

    protocol, _, rest = address.partition(":")
    protocol = protocol.lower()
    if protocol == "pipe":
        raise AvrtError(
            "addresses that run a command are not opened, since addresses also come with the results of others",
            where="pipe:",
            remedy="sftp://HOST/DIR reads by ssh",
        )
    if "::" in address or not rest.startswith("//"):
        raise AvrtError(
            "is no address", where=shown(address), remedy="PROTOCOL://PLACE/DIR, such as s3://bucket/shards"
        )
    try:
        fs, path = fsspec.core.url_to_fs(address, **_options(protocol))
    except ImportError as error:
        remedy = INSTALL.get(protocol, one_line(error, address))
        what = f"{protocol}:// needs a package that is not installed"
        raise AvrtError(what, where=shown(address), remedy=remedy) from None
    except Exception as error:  # each kind of store raises its own
        known = ", ".join(f"{name}://" for name in INSTALL)
        what = f"cannot be opened: {one_line(error, address)}"
        raise AvrtError(what, where=shown(address), remedy=f"addresses begin with https://, {known} ...") from None
    return fs, str(path)


def _options(protocol: str) -> dict[str, Any]:
    """What a file system is told besides the user's own settings of fsspec.

    Some servers of S3 (rclone's) answer a request for a part of a file with the checksum of the whole file, which
    botocore would refuse each time. Sizes are checked here, and of shards the sha256.
    """
    if protocol not in ("s3", "s3a") or "AWS_RESPONSE_CHECKSUM_VALIDATION" in os.environ:
        return {}
    import fsspec

    own = fsspec.config.conf.get("s3", {}) | fsspec.config.conf.get("s3a", {})
    return {"config_kwargs": {"response_checksum_validation": "when_required", **own.get("config_kwargs", {})}}


def one_line(error: BaseException, address: str = "") -> str:
    """What an error of a store says, in one line and without what `shown` leaves out of its address."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, FileNotFoundError) and " " not in text:
        text = "it is not there"  # the message is the path alone
    if address:
        text = text.replace(address, shown(address))
    return _USER.sub(r"\1:***@", text)[:_LONGEST_REASON]


def is_final(error: BaseException) -> bool:
    """Whether trying again would not help: the file is not there, or the store refuses."""
    if isinstance(error, _FINAL) or lacks_credentials(error):
        return True
    code = str(getattr(error, "code", getattr(error, "status_code", "")))
    return code.isdecimal() and int(code) in _REFUSED


def lacks_credentials(error: BaseException) -> bool:
    """Whether an error says that there are no credentials for a store."""
    return type(error).__name__ in _NO_CREDENTIALS


def refused(error: BaseException, address: str) -> AvrtError:
    """The error of a store, with what one can do about it."""
    if isinstance(error, FileNotFoundError):
        remedy = "check the address"
    elif isinstance(error, PermissionError) or lacks_credentials(error):
        remedy = "check the credentials: environment, profile or ~/.config/fsspec"
    else:
        remedy = None
    return AvrtError(f"cannot be fetched: {one_line(error, address)}", where=shown(address), remedy=remedy)
