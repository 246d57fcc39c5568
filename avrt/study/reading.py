"""A study's declaration from YAML files that are merged field by field, and from the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from avrt.arguments import OneLineErrors, shorten
from avrt.configurations import find_config
from avrt.errors import AvrtError
from avrt.study.checks import check
from avrt.study.declaration import (
    REFERENCE,
    BenchmarkSpec,
    Declaration,
    ShardsSpec,
    StudentSpec,
    TracesSpec,
    TrainingSpec,
)

FIELDS = tuple(f.name for f in fields(Declaration))
_ENTRIES: dict[str, type] = {
    "shards": ShardsSpec, "training": TrainingSpec, "students": StudentSpec, "traces": TracesSpec,
    "benchmarks": BenchmarkSpec,
}  # fmt: skip
_OPTIONS_BELOW = "arguments"
"""Below this field names have dots, as in `arguments: {model.group_size: 2}`."""


def read_declaration(configs: Iterable[str], overrides: Sequence[tuple[str, str]] = ()) -> tuple[Declaration, str]:
    """The declaration that configurations describe together.

    Mappings are merged key by key, so that a later file may change one argument of one student; `null` takes an entry
    away; lists are replaced. Claims are a list, or a mapping from their ids.

    Args:
        configs: Files by path or packaged name; later ones win.
        overrides: (field, value as YAML) of the command line, such as `("students.g2.stage", "sft")`.

    Returns:
        The declaration, and the merged YAML.

    Raises:
        AvrtError: If a file is none or is not YAML, or the declaration is not one; the message names the field.
    """
    merged: dict[str, Any] = {}
    for name in configs:
        path = find_config(name)
        merged = _merge(merged, _load(path.read_text(encoding="utf-8"), path))
    for place, text in overrides:
        value = _load(text, f"--{place}", mapping=False)
        for key in reversed(_keys(place)):
            value = {key: value}
        merged = _merge(merged, value)
    _check_entries(merged)
    text = yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)
    if isinstance(claims := merged.get("claims"), Mapping):  # by id, so that an overlay can take one away
        merged["claims"] = [{"id": name, **claim} for name, claim in claims.items()]
    parser = OneLineErrors(prog="avrt study")
    parser.add_class_arguments(Declaration)
    # The parser changes what it is given.
    values = parser.instantiate_classes(parser.parse_object(deepcopy(merged)))
    study = Declaration(**vars(values))
    check(study)
    return study, text


def _check_entries(merged: Mapping[str, Any]) -> None:
    """Refuse an entry that is wrong by its name, which the parser of the whole would not say."""
    for section, kind in _ENTRIES.items():
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(kind)
        entries = merged.get(section)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if not isinstance(entry, Mapping):
                raise AvrtError(f"is {entry!r}, and no mapping", where=f"{section}.{name}")
            try:
                parser.parse_object(deepcopy(dict(entry)))
            except ArgumentError as error:
                raise AvrtError(shorten(str(error)), where=f"{section}.{name}") from None


def _load(text: str, where: object, *, mapping: bool = True) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise AvrtError(f"is not YAML: {' '.join(str(error).split())}", where=where) from None
    if mapping and not isinstance(value, dict):
        raise AvrtError("is not a declaration of a study", where=where, remedy=f"its fields: {', '.join(FIELDS)}")
    return _with_references(value)


def _with_references(value: Any) -> Any:
    """The value with `{students.base}` as that text also where it is not quoted, which is a mapping in YAML."""
    if isinstance(value, list):
        return [_with_references(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and next(iter(value.values())) is None and REFERENCE.fullmatch(f"{{{next(iter(value))}}}"):
        return f"{{{next(iter(value))}}}"
    return {key: _with_references(inner) for key, inner in value.items()}


def _keys(place: str) -> list[str]:
    keys = place.split(".")
    if _OPTIONS_BELOW in keys[:-1]:
        end = keys.index(_OPTIONS_BELOW) + 1
        return [*keys[:end], ".".join(keys[end:])]
    return keys


def _merge(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings, the second one's values winning and its nulls taking away what the first one has."""
    merged = dict(first)
    for key, value in second.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def is_field(option: str) -> bool:
    """Whether an option of the command line is a field of the declaration, such as `--seeds`."""
    return option.startswith("--") and option[2:].partition("=")[0].partition(".")[0] in FIELDS


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The command's own arguments, and (field, value) of those that are fields of the declaration.

    Raises:
        AvrtError: If a field has no value.
    """
    own: list[str] = []
    overrides: list[tuple[str, str]] = []
    words = iter(arguments)
    for word in words:
        if not is_field(word):
            own.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            following = next(words, None)
            if following is None:
                raise AvrtError("has no value", where=f"--{name}")
            value = following
        overrides.append((name, value))
    return own, overrides


def write_declaration(text: str, out: Path) -> None:
    """Keep the merged declaration in the study's folder, from which it can be run again."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "study.yaml").write_text(text, encoding="utf-8")
