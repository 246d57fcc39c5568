"""Files and folders that come with the package, found by name where a path could stand as well."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable
from pathlib import Path

from avrt.remote.models import fetch_model
from avrt.remote.stores import is_remote


def packaged(package: str, *parts: str) -> Path:
    """The path of a file or folder inside a package, whether or not it exists.

    Args:
        package: The package's name, such as `avrt.configs`.
        *parts: The path below the package.
    """
    return Path(str(importlib.resources.files(package).joinpath(*parts)))


def find_packaged(name: str, folder: Path, exists: Callable[[Path], bool] = Path.is_file) -> Path | None:
    """The file that is meant by a path, or by a name below a packaged folder; None if there is neither.

    Args:
        name: A path, which comes first, or the packaged name, such as `nano/grpo.yaml`.
        folder: The packaged folder; see `packaged`.
        exists: `Path.is_dir` to look for a folder instead.
    """
    return next((path for path in (Path(name), folder / name) if exists(path)), None)


def packaged_models() -> list[str]:
    """The names of the models that come with the package, such as `nano/student`."""
    configs = packaged("avrt.configs")
    return sorted(path.parent.relative_to(configs).as_posix() for path in configs.glob("nano/**/config.json"))


def model_source(name: str) -> str:
    """Where a model is read from: a path or id as it is, a packaged one's path, the copy of one at an address.

    Args:
        name: A path, an id on the Hub, the name of a model that comes with the package, such as `nano/student`, or an
            address, such as `s3://bucket/model`, which is fetched where its copy is missing or old.

    Raises:
        AvrtError: If there is no model at the address, or it cannot be fetched.
    """
    if is_remote(name):
        return str(fetch_model(name))
    ours = packaged("avrt.configs", name)
    return str(ours) if not Path(name).exists() and (ours / "config.json").is_file() else name
