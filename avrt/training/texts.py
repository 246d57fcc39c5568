"""Texts on the command line stay texts: the parser reads each value as YAML, which finds mappings and numbers there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

_OPTION = re.compile(r"--((?:data|model)\.[\w.]+)(?:=(.*))?", re.DOTALL)
_TEXT_LISTS = ("data.ask.choices",)


@contextmanager
def texts_kept(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Arguments in which every option with a text that looks like YAML stands in a configuration, where it is quoted.

    `--data.ask.question "Look closely: what falls?"` is such a text, and so are the entries of
    `--data.ask.choices "[yes, no]"`. Later options still override it, and it overrides earlier ones.
    """
    with tempfile.TemporaryDirectory(prefix="avrt-texts-") as folder:
        kept: list[str] = []
        rest = list(arguments)
        while rest:
            argument = rest.pop(0)
            match = _OPTION.fullmatch(argument)
            value = None if match is None else match[2]
            if match is not None and value is None and rest and not rest[0].startswith("--"):
                value = rest[0]
            text = None if match is None or value is None else _as_text(match[1], value)
            if match is None or text is None:
                kept.append(argument)
                continue
            if match[2] is None:
                rest.pop(0)
            path = Path(folder) / f"{len(kept)}.yaml"
            path.write_text(yaml.safe_dump(_nested(match[1].split("."), text), allow_unicode=True), encoding="utf-8")
            kept.append(f"--config={path}")
        yield kept


def _as_text(name: str, value: str) -> str | list[str] | None:
    """The text, or list of texts, that a value is; None where the parser reads it rightly by itself."""
    try:
        if name in _TEXT_LISTS:
            entries = yaml.load(value, Loader=yaml.BaseLoader)  # every scalar is a text to this loader
            flat = isinstance(entries, list) and all(isinstance(entry, str) for entry in entries)
            return entries if flat else None
        loaded = yaml.safe_load(value)
    except yaml.YAMLError:
        return value  # no YAML, so it can only be a text
    return value if isinstance(loaded, dict) and not value.lstrip().startswith("{") else None


def _nested(keys: list[str], value: Any) -> dict[str, Any]:
    if keys[0] == "model" and keys[1] != "init_args":
        keys = ["model", "init_args", *keys[1:]]
    for key in reversed(keys):
        value = {key: value}
    return dict(value)
