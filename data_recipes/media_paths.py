"""Paths of media that annotations name: below the root or a further folder that the user names, and nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from avrt.errors import AvrtError, BadSampleError
from avrt.messages import short

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class OutsideRootError(BadSampleError):
    """A row names media outside of the folders that media may be in.

    Attributes:
        folder: The folder that it leads to, for the one hint that a run gives; see `outside_hint`.
    """

    folder: Path

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle for other processes."""
        return (outside, (self.what, self.where, self.folder))


def outside(what: str, where: str | None, folder: Path) -> OutsideRootError:
    """The error for media outside of the folders that media may be in; it has no remedy, since one hint serves all."""
    error = OutsideRootError(what, where=where)
    error.folder = folder
    return error


def outside_hint(folders: Iterable[Path], rows: int) -> str:
    """One line for a whole run that says how media outside of the root become usable.

    Args:
        folders: Where the rows lead to.
        rows: How many rows lead there.
    """
    common = os.path.commonpath([str(folder) for folder in folders])
    whose = f"--media_root {common}" if common != os.sep else "--media_root with the folder that holds them all"
    return f"{rows} rows name media outside of --root; if you trust these annotations, allow it with {whose}"


def media_file(
    root: Path, relative: Any, name: str, field: str, *, media_root: str | None = None, below: str = ""
) -> Path:
    """The path of a media file that an annotation names; conversion checks whether the file exists.

    A path may be absolute, have `..` in it, or lead through links, as long as it ends below the root or the media root.

    Args:
        root: The dataset's folder.
        relative: The path, which the media root completes if nothing is there below the root.
        name: The row's name, for errors.
        field: The field's name, for errors.
        media_root: A further folder that media may be in.
        below: The folder in which the dataset's layout puts these files, below the root.

    Raises:
        BadSampleError: If it is not a path.
        OutsideRootError: If it leads to another place than the root and the media root.
    """
    if isinstance(relative, Mapping) and set(relative) == {"bytes", "path"}:
        # the `datasets` library saves media as bytes or as a path
        relative = relative["path"] if relative["bytes"] is None else relative["bytes"]
    if isinstance(relative, (bytes, bytearray)):
        remedy = "save the media as files and give their paths"
        raise BadSampleError(f"field '{field}' holds bytes; recipes read files by path", where=name, remedy=remedy)
    if not isinstance(relative, str) or not relative.strip():
        raise BadSampleError(f"field '{field}' is {short(relative)}, needs a path", where=name)
    if _ADDRESS.match(relative):
        remedy = "download the files and give their paths below --root"
        raise BadSampleError(f"field '{field}' is an address: {short(relative)}", where=name, remedy=remedy)
    if "\\" in relative and ".." not in relative:
        relative = relative.replace("\\", "/")  # as Windows writes it
    parts = PurePosixPath(relative)
    if any(len(part.encode()) > 255 for part in parts.parts) or len(relative) > 4000:
        raise BadSampleError(f"field '{field}' is too long for a path: {short(relative)}", where=name)
    told = f"field '{field}' leads out of the dataset"
    if "\\" in relative or "\0" in relative:
        raise BadSampleError(f"{told}: {short(relative)}", where=name, remedy="write / between folders")
    roots = [root / below if below else root, *([] if media_root is None else [Path(media_root)])]
    path = roots[0] / parts
    try:
        if len(roots) > 1 and not path.exists() and (roots[1] / parts).exists():
            path = roots[1] / parts
        target = path.resolve()
        inside = any(target.is_relative_to(folder.resolve()) for folder in (root, *roots[1:]))
    except (OSError, RuntimeError, ValueError):  # a name too long, links in a circle
        raise BadSampleError(
            f"field '{field}' is a path that cannot be opened: {short(relative)}", where=name
        ) from None
    if not inside:
        linked = not parts.is_absolute() and ".." not in parts.parts
        raise outside(f"{told}{' through a link' if linked else ''}: {short(relative)}", name, target.parent)
    return path


def first_file(root: Path, places: Sequence[Any], name: str, field: str, *, media_root: str | None = None) -> Path:
    """The first of several paths below the root that exists, or else the last of them.

    Raises:
        BadSampleError: If one is not a path, or leads out of the root and the media root.
    """
    paths = [media_file(root, place, name, field, media_root=media_root) for place in places]
    return next((path for path in paths if path.is_file()), paths[-1])


def check_media_root(media_root: str | None) -> None:
    """Check the option `--media_root`.

    Raises:
        AvrtError: If there is no such folder.
    """
    if media_root is not None and not Path(media_root).is_dir():
        raise AvrtError("no such folder", where=f"--media_root {media_root}", remedy="give the folder of the media")
