"""Configurations by path, or by their name among the packaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from avrt.errors import AvrtError
from avrt.packaged import find_packaged, packaged
from avrt.text import did_you_mean

OPTIONS = ("--config", "-c")


def resolve_configs(arguments: Sequence[str]) -> list[str]:
    """Turn the bare name after each --config into the path of a packaged configuration, unless such a file is here.

    Raises:
        AvrtError: If there is neither.
    """
    resolved: list[str] = []
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if i and arguments[i - 1] in OPTIONS:
            resolved.append(str(find_config(argument)))
        elif option in OPTIONS and equals:
            resolved.append(f"{option}={find_config(value)}")
        else:
            resolved.append(argument)
    return resolved


def find_config(name: str) -> Path:
    """A configuration by path, or by its name among the packaged ones.

    Raises:
        AvrtError: If there is none.
    """
    configs = packaged("avrt.configs")
    if found := find_packaged(name, configs):
        return found
    folder = next(path for path in ((configs / name).parent, configs) if path.is_dir())
    known = ", ".join(sorted(path.name for path in folder.glob("*.yaml")))
    remedy = did_you_mean(name, packaged_configs()) or f"packaged ones: {known}"
    raise AvrtError("no such configuration", where=name, remedy=remedy)


def packaged_configs() -> list[str]:
    """The names of all packaged configurations, such as `nano/sft.yaml`; those in no folder come first."""
    configs = packaged("avrt.configs")
    names = [path.relative_to(configs).as_posix() for path in configs.rglob("*.yaml")]
    return sorted(names, key=lambda name: ("/" in name, name))
