"""The model families that are known, and which one a source belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from avrt.errors import AvrtError
from avrt.models.family import Family
from avrt.models.gemma4.family import Gemma
from avrt.models.qwen2_5_omni.family import QwenOmni
from avrt.models.qwen3_omni.family import Qwen3Omni
from avrt.packaged import model_source

FAMILIES: tuple[Family, ...] = (QwenOmni(), Qwen3Omni(), Gemma())


def find_family(source: str) -> Family:
    """The family of a model, by the name of its nano preset or by the `model_type` of its configuration.

    Raises:
        AvrtError: If the source cannot be found, or belongs to no family that is known.
    """
    for family in FAMILIES:
        if source == family.nano:
            return family
    source = model_source(source)
    if _looks_like_path(source) and not Path(source).is_dir():
        raise AvrtError("no such folder", where=source, remedy="set model.student.source to a model")
    try:
        config, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from None
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(f"{family.name} ({', '.join(family.model_types)})" for family in FAMILIES)
    raise AvrtError(f"is of type {model_type}, which is not supported", where=source, remedy=f"use one of {known}")


def find_config(source: str) -> tuple[Family, Any, bool]:
    """The family and configuration of a model, and whether the source was read for it.

    Of a released model that is not on this machine the dimensions are known: no network is asked for them.

    Raises:
        AvrtError: If the source cannot be found, or belongs to no family that is known.
    """
    for family in FAMILIES:
        if (config := family.released_config(source)) is not None and not _is_cached(source):
            return family, config, False
    family = find_family(source)
    try:
        return family, family.config(model_source(source)), True
    except (OSError, ValueError) as error:
        raise cannot_load(source, error) from None


def _is_cached(source: str) -> bool:
    try:
        PretrainedConfig.get_config_dict(source, local_files_only=True)
    except (OSError, ValueError):
        return False
    return True


def cannot_load(source: str, error: Exception) -> AvrtError:
    """What transformers says about a source that it cannot load, in one line."""
    first = str(error).strip().splitlines()[0]
    return AvrtError(f"cannot be loaded: {first}", where=source, remedy="set model.student.source")


def _looks_like_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") != 1
